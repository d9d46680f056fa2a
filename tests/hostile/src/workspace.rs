//! The workspace that the user has sent to the VM before, as the guest knows it.

use std::{
    fs::{self, File},
    path::Path,
    process,
};

use banger_files::{Kind, ListedFile, ListingReader, Time, Unpacked};

use crate::encode::Listed;

/// Time at which the guest placed the workspace, in seconds.
pub(crate) const PLACED_AT: i64 = 1_700_000_000;

/// Small files that the client reads.
const SMALL_FILES: [&str; 5] =
    [".git/HEAD", ".git/refs/heads/main", ".git/index", ".git/info/exclude", ".gitignore"];

/// A file's path and content.
pub(crate) type SmallFile = (Vec<u8>, Vec<u8>);

/// A workspace in the guest.
#[derive(Debug, Clone, Default)]
pub struct Workspace {
    /// Its listing: every file is as sent.
    pub listed: Vec<Listed>,
    /// Small files that the client may read.
    pub(crate) files: Vec<SmallFile>,
    /// The commit that was sent.
    pub head: String,
    /// A commit that only the guest has: its id, and a pack with it.
    pub commit: (String, Vec<u8>),
    /// The index after a file was removed from it, and git's list of its differences from the commit.
    pub(crate) staged: (Vec<u8>, Vec<u8>),
}

impl Workspace {
    /// Reads the stream with which the client has placed the workspace.
    pub(crate) fn read(stream: &[u8], scratch: &Path) -> Self {
        let dir = scratch.join("guest");
        banger_files::place(stream, &dir, &mut Unpacked::default()).expect("the client sends a valid stream");
        let mut bytes = Vec::new();
        banger_files::list(File::open(&dir).unwrap(), &mut bytes).unwrap();
        let mut reader = ListingReader::new(&*bytes).unwrap();
        let mut listed = Vec::new();
        while let Some(record) = reader.next_record().unwrap() {
            listed.push(as_placed(record));
        }
        let file = |name: &str| (name.as_bytes().to_vec(), fs::read(dir.join(name)).expect("it was sent"));
        let files = SMALL_FILES.map(file).into();
        let head = line(git(&dir, &["rev-parse", "HEAD"]));
        git(&dir, &["rm", "--quiet", "--cached", "README"]);
        let differences = ["diff-index", "--cached", "--raw", "-z", "--no-abbrev", "HEAD"];
        let staged = (fs::read(dir.join(".git/index")).unwrap(), git(&dir, &differences));
        Self { listed, files, head, commit: commit(scratch), staged }
    }
}

/// Returns the time of placing, as the agent sends it.
pub(crate) fn placed_at() -> [u8; 12] {
    Time { seconds: PLACED_AT, nanoseconds: 0 }.to_bytes()
}

fn as_placed(record: ListedFile) -> Listed {
    Listed {
        kind: match record.kind {
            Kind::File => 1,
            Kind::Link => 2,
            _ => 3,
        },
        path: record.path,
        mode: record.mode,
        size: record.size,
        modified: record.modified.seconds,
        nanoseconds: record.modified.nanoseconds,
        changed: PLACED_AT,
    }
}

/// Creates a commit without parents; returns its id and a pack with it.
fn commit(scratch: &Path) -> (String, Vec<u8>) {
    let dir = scratch.join("commit");
    fs::create_dir(&dir).unwrap();
    git(&dir, &["init", "--quiet"]);
    git(&dir, &["commit", "--quiet", "--allow-empty", "-m", "work"]);
    let id = git(&dir, &["rev-parse", "HEAD"]);
    (line(id), git(&dir, &["pack-objects", "--stdout", "--all", "--quiet"]))
}

/// Returns the only line of `output`.
fn line(output: Vec<u8>) -> String {
    String::from_utf8(output).unwrap().trim().to_owned()
}

/// Runs git without the user's configuration and at a fixed time; returns its output.
pub(crate) fn git(dir: &Path, arguments: &[&str]) -> Vec<u8> {
    let mut git = process::Command::new("git");
    git.current_dir(dir).args(arguments).stdin(process::Stdio::null()).stderr(process::Stdio::inherit());
    git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    for role in ["AUTHOR", "COMMITTER"] {
        git.env(format!("GIT_{role}_NAME"), "user").env(format!("GIT_{role}_EMAIL"), "user@localhost");
        git.env(format!("GIT_{role}_DATE"), format!("@{PLACED_AT} +0000"));
    }
    let output = git.output().expect("git is installed");
    assert!(output.status.success(), "git {arguments:?} failed");
    output.stdout
}
