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

/// Small files of `.git` and others that the client reads.
const RULES: [&str; 4] = [".git/HEAD", ".git/index", ".git/info/exclude", ".gitignore"];

/// A workspace in the guest.
#[derive(Debug, Clone, Default)]
pub struct Workspace {
    /// Its listing: every file is as sent.
    pub listed: Vec<Listed>,
    /// Paths and contents of the files that the client reads first.
    pub rules: Vec<(Vec<u8>, Vec<u8>)>,
    /// A commit that only the guest has: its id, and a pack with it.
    pub commit: (String, Vec<u8>),
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
        let rule = |name: &str| Some((name.as_bytes().to_vec(), fs::read(dir.join(name)).ok()?));
        let rules = RULES.iter().filter_map(|name| rule(name)).collect();
        Self { listed, rules, commit: commit(scratch) }
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
    let id = String::from_utf8(git(&dir, &["rev-parse", "HEAD"])).unwrap().trim().to_owned();
    (id, git(&dir, &["pack-objects", "--stdout", "--all", "--quiet"]))
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
