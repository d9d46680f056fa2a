//! The `.git` of a workspace in a guest, but for objects and index: small files, written here byte by byte.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
    path::Path,
};

use banger_files::Tree;
use serde::{Deserialize, Serialize};

use crate::{Repository, repository::is_id};

/// Most bytes of such a file.
const MAX_SMALL: u64 = 1 << 20;

/// What is checked out in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct CheckedOut {
    /// Its commit; `None` before the first one.
    pub(crate) commit: Option<String>,
    /// Its branch, such as `refs/heads/main`; `None` for none.
    pub(crate) branch: Option<String>,
    /// The merge that is under way: files of `.git`, by name.
    #[serde(default)]
    pub(crate) merging: BTreeMap<String, Vec<u8>>,
}

/// What tells git that a merge is under way, and the commits that go into it.
const MERGE_HEADS: &[&str] = &["MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD"];
const MERGE_FILES: &[&str] = &["MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "MERGE_MODE", "MERGE_MSG"];

impl CheckedOut {
    /// What is checked out in `repository`, with a merge that is under way there.
    pub(crate) fn of(repository: &Repository) -> Self {
        let mut merging = BTreeMap::new();
        for name in MERGE_FILES {
            if let Some(bytes) = to_be_sent(&repository.own, name) {
                merging.insert((*name).to_owned(), bytes);
            }
        }
        Self { commit: repository.head.clone(), branch: repository.branch.clone(), merging }
    }

    /// The commits that are needed for it.
    pub(crate) fn commits(&self) -> impl Iterator<Item = &str> {
        let merged = MERGE_HEADS.iter().filter_map(|name| std::str::from_utf8(self.merging.get(*name)?).ok());
        self.commit.as_deref().into_iter().chain(merged.flat_map(str::lines).filter(|line| is_id(line)))
    }
}

/// A path in the workspace, and what is to be there.
pub(crate) type SmallFile = (Vec<u8>, Vec<u8>);

/// Settings that say how files and blobs differ, and who commits.
const TAKEN_OVER: &[&str] = &[
    "core.autocrlf",
    "core.eol",
    "core.safecrlf",
    "core.symlinks",
    "core.ignorecase",
    "user.name",
    "user.email",
];

/// The files, by their paths in the workspace.
pub(crate) fn files(
    repository: &Repository,
    out: &CheckedOut,
    shallow: &BTreeSet<String>,
    commits: &BTreeSet<String>,
) -> Vec<SmallFile> {
    let excluded = to_be_sent(&repository.common, "info/exclude").unwrap_or_default();
    let mut files = vec![
        (b".git/HEAD".to_vec(), head(out)),
        (b".git/config".to_vec(), config(repository, out)),
        (b".git/info/exclude".to_vec(), excluded),
    ];
    if let (Some(commit), Some(branch)) = (&out.commit, &out.branch) {
        files.push((format!(".git/{branch}").into_bytes(), line(commit)));
    }
    if let Some((name, commit)) = upstream(repository, out).filter(|(_, commit)| commits.contains(commit)) {
        files.push((format!(".git/{name}").into_bytes(), line(&commit)));
    }
    for (name, bytes) in &out.merging {
        files.push((format!(".git/{name}").into_bytes(), bytes.clone()));
    }
    if !shallow.is_empty() {
        files.push((b".git/shallow".to_vec(), shallow.iter().flat_map(|id| line(id)).collect()));
    }
    if is_sparse(repository)
        && let Some(patterns) = to_be_sent(&repository.own, "info/sparse-checkout")
    {
        files.push((b".git/info/sparse-checkout".to_vec(), patterns));
    }
    files
}

/// The branch of the origin's that the one checked out follows.
fn upstream(repository: &Repository, out: &CheckedOut) -> Option<(String, String)> {
    let branch = out.branch.as_deref()?.strip_prefix("refs/heads/")?;
    let merge = repository.config.get(&format!("branch.{branch}.merge"))?.strip_prefix(b"refs/heads/")?;
    if repository.config.get(&format!("branch.{branch}.remote"))? != b"origin" {
        return None;
    }
    let name = format!("refs/remotes/origin/{}", String::from_utf8_lossy(merge));
    // One that was never fetched is none.
    let commit = repository.commit(&name).ok()?;
    Some((name, commit))
}

/// What goes of git's own files as it is. None behind a link: a hostile repository's may lead to the user's keys.
fn to_be_sent(folder: &Path, name: &str) -> Option<Vec<u8>> {
    let (file, _) = Tree::open(folder).ok()?.file(name.as_bytes()).ok()?;
    let mut bytes = Vec::new();
    file.take(MAX_SMALL + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= MAX_SMALL).then_some(bytes)
}

fn is_sparse(repository: &Repository) -> bool {
    repository.config.get("core.sparsecheckout").is_some_and(is_yes)
}

fn is_yes(value: &[u8]) -> bool {
    matches!(value.to_ascii_lowercase().as_slice(), b"true" | b"yes" | b"on" | b"1")
}

fn head(out: &CheckedOut) -> Vec<u8> {
    match (&out.branch, &out.commit) {
        (Some(branch), _) => format!("ref: {branch}\n").into_bytes(),
        (None, Some(commit)) => line(commit),
        (None, None) => b"ref: refs/heads/main\n".to_vec(),
    }
}

fn line(id: &str) -> Vec<u8> {
    format!("{id}\n").into_bytes()
}

/// The guest's configuration: what says how its files are to be understood, where it came from, and who works there.
fn config(repository: &Repository, out: &CheckedOut) -> Vec<u8> {
    let mut file = File::default();
    let get = |key: &str| repository.config.get(key);
    if repository.id_length() == 32 {
        file.set("core", None, "repositoryformatversion", b"1");
        file.set("extensions", None, "objectformat", b"sha256");
    } else {
        file.set("core", None, "repositoryformatversion", b"0");
    }
    file.set("core", None, "filemode", get("core.filemode").unwrap_or(b"true"));
    file.set("core", None, "bare", b"false");
    // The index is the host's: of what it says of a file, only size and time are true in the guest too.
    file.set("core", None, "checkStat", b"minimal");
    file.set("core", None, "trustctime", b"false");
    file.set("core", None, "untrackedCache", b"false");
    if is_sparse(repository) {
        file.set("core", None, "sparseCheckout", b"true");
        file.set("core", None, "sparseCheckoutCone", get("core.sparsecheckoutcone").unwrap_or(b"true"));
    }
    for key in TAKEN_OVER {
        if let (Some(value), Some((section, name))) = (get(key), key.split_once('.')) {
            file.set(section, None, name, value);
        }
    }
    // There is no key in the guest to sign with.
    file.set("commit", None, "gpgsign", b"false");
    file.set("tag", None, "gpgsign", b"false");
    if let Some(url) = get("remote.origin.url") {
        file.set("remote", Some(b"origin"), "url", url);
        file.set("remote", Some(b"origin"), "fetch", b"+refs/heads/*:refs/remotes/origin/*");
    }
    if let Some(branch) = out.branch.as_deref().and_then(|name| name.strip_prefix("refs/heads/")) {
        let merge = get(&format!("branch.{branch}.merge"));
        if let (Some(b"origin"), Some(merge)) = (get(&format!("branch.{branch}.remote")), merge) {
            file.set("branch", Some(branch.as_bytes()), "remote", b"origin");
            file.set("branch", Some(branch.as_bytes()), "merge", merge);
        }
    }
    file.text
}

/// A configuration file of git's, being written.
#[derive(Debug, Default)]
struct File {
    text: Vec<u8>,
    section: Vec<u8>,
}

impl File {
    fn set(&mut self, section: &str, subsection: Option<&[u8]>, name: &str, value: &[u8]) {
        let mut header = format!("[{section}").into_bytes();
        if let Some(subsection) = subsection {
            header.extend_from_slice(b" \"");
            header.extend(subsection.iter().flat_map(|byte| escaped(*byte, false)));
            header.push(b'"');
        }
        header.extend_from_slice(b"]\n");
        if self.section != header {
            self.text.extend_from_slice(&header);
            self.section = header;
        }
        self.text.extend_from_slice(format!("\t{name} = \"").as_bytes());
        self.text.extend(value.iter().flat_map(|byte| escaped(*byte, true)));
        self.text.extend_from_slice(b"\"\n");
    }
}

fn escaped(byte: u8, in_value: bool) -> Vec<u8> {
    match byte {
        b'"' | b'\\' => vec![b'\\', byte],
        b'\n' if in_value => b"\\n".to_vec(),
        // A subsection can have neither.
        b'\n' | 0 => Vec::new(),
        _ => vec![byte],
    }
}
