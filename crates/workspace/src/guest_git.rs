//! The `.git` of a workspace in a guest, except objects and index: small files that banger writes itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
    path::Path,
};

use banger_files::Tree;
use serde::{Deserialize, Serialize};

use crate::{Repository, repository::is_object_id};

/// Maximum size of such a file, in bytes.
const MAX_SMALL_FILE: u64 = 1 << 20;

/// The commit, branch and merge that are checked out in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Checkout {
    /// The commit; `None` before the first one.
    pub(crate) commit: Option<String>,
    /// The branch, such as `refs/heads/main`; `None` if `HEAD` is detached.
    pub(crate) branch: Option<String>,
    /// The files of `.git` that record a merge in progress, by name.
    #[serde(default)]
    pub(crate) merging: BTreeMap<String, Vec<u8>>,
}

/// The files that record a merge in progress; those of `MERGE_HEADS` name commits.
const MERGE_HEADS: &[&str] = &["MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD"];
const MERGE_FILES: &[&str] = &["MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "MERGE_MODE", "MERGE_MSG"];

impl Checkout {
    /// Returns what is checked out in `repository`, with a merge in progress.
    pub(crate) fn of(repository: &Repository) -> Self {
        let mut merging = BTreeMap::new();
        for name in MERGE_FILES {
            if let Some(bytes) = read_small_file(&repository.git_dir, name) {
                merging.insert((*name).to_owned(), bytes);
            }
        }
        Self { commit: repository.head.clone(), branch: repository.branch.clone(), merging }
    }

    /// Returns the commits that the checkout needs.
    pub(crate) fn commits(&self) -> impl Iterator<Item = &str> {
        let merged = MERGE_HEADS.iter().filter_map(|name| std::str::from_utf8(self.merging.get(*name)?).ok());
        self.commit
            .as_deref()
            .into_iter()
            .chain(merged.flat_map(str::lines).filter(|line| is_object_id(line)))
    }
}

/// A path in the workspace, and the file's content.
pub(crate) type SmallFile = (Vec<u8>, Vec<u8>);

/// Settings that affect the conversion between files and blobs, and the committer's identity.
const COPIED_KEYS: &[&str] = &[
    "core.autocrlf",
    "core.eol",
    "core.safecrlf",
    "core.symlinks",
    "core.ignorecase",
    "user.name",
    "user.email",
];

/// Returns the files, with their paths in the workspace.
pub(crate) fn files(
    repository: &Repository,
    checkout: &Checkout,
    shallow: &BTreeSet<String>,
    commits: &BTreeSet<String>,
) -> Vec<SmallFile> {
    let excluded = read_small_file(&repository.common_dir, "info/exclude").unwrap_or_default();
    let mut files = vec![
        (b".git/HEAD".to_vec(), head(checkout)),
        (b".git/config".to_vec(), config(repository, checkout)),
        (b".git/info/exclude".to_vec(), excluded),
    ];
    if let (Some(commit), Some(branch)) = (&checkout.commit, &checkout.branch) {
        files.push((format!(".git/{branch}").into_bytes(), line(commit)));
    }
    if let Some((name, commit)) =
        upstream(repository, checkout).filter(|(_, commit)| commits.contains(commit))
    {
        files.push((format!(".git/{name}").into_bytes(), line(&commit)));
    }
    for (name, bytes) in &checkout.merging {
        files.push((format!(".git/{name}").into_bytes(), bytes.clone()));
    }
    if !shallow.is_empty() {
        files.push((b".git/shallow".to_vec(), shallow.iter().flat_map(|id| line(id)).collect()));
    }
    if is_sparse(repository)
        && let Some(patterns) = read_small_file(&repository.git_dir, "info/sparse-checkout")
    {
        files.push((b".git/info/sparse-checkout".to_vec(), patterns));
    }
    files
}

/// Returns the remote-tracking ref that the checked-out branch follows, if the remote is `origin`.
fn upstream(repository: &Repository, checkout: &Checkout) -> Option<(String, String)> {
    let branch = checkout.branch.as_deref()?.strip_prefix("refs/heads/")?;
    let merge = repository.config.get(&format!("branch.{branch}.merge"))?.strip_prefix(b"refs/heads/")?;
    if repository.config.get(&format!("branch.{branch}.remote"))? != b"origin" {
        return None;
    }
    let name = format!("refs/remotes/origin/{}", String::from_utf8_lossy(merge));
    // It does not exist if the branch was never fetched.
    let commit = repository.commit(&name).ok()?;
    Some((name, commit))
}

/// Reads a file of `.git` to send unchanged. Follows no link, which could lead to the user's keys in a hostile
/// repository.
fn read_small_file(dir: &Path, name: &str) -> Option<Vec<u8>> {
    let (file, _) = Tree::open(dir).ok()?.file(name.as_bytes()).ok()?;
    let mut bytes = Vec::new();
    file.take(MAX_SMALL_FILE + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= MAX_SMALL_FILE).then_some(bytes)
}

fn is_sparse(repository: &Repository) -> bool {
    repository.config.get("core.sparsecheckout").is_some_and(is_true)
}

fn is_true(value: &[u8]) -> bool {
    matches!(value.to_ascii_lowercase().as_slice(), b"true" | b"yes" | b"on" | b"1")
}

pub(crate) fn head(checkout: &Checkout) -> Vec<u8> {
    match (&checkout.branch, &checkout.commit) {
        (Some(branch), _) => format!("ref: {branch}\n").into_bytes(),
        (None, Some(commit)) => line(commit),
        (None, None) => b"ref: refs/heads/main\n".to_vec(),
    }
}

pub(crate) fn line(id: &str) -> Vec<u8> {
    format!("{id}\n").into_bytes()
}

/// Returns the guest's configuration: how to interpret files, where they came from, and who commits.
fn config(repository: &Repository, checkout: &Checkout) -> Vec<u8> {
    let mut file = ConfigFile::default();
    let get = |key: &str| repository.config.get(key);
    if repository.id_length() == 32 {
        file.set("core", None, "repositoryformatversion", b"1");
        file.set("extensions", None, "objectformat", b"sha256");
    } else {
        file.set("core", None, "repositoryformatversion", b"0");
    }
    file.set("core", None, "filemode", get("core.filemode").unwrap_or(b"true"));
    file.set("core", None, "bare", b"false");
    // The index is the host's. Of its file metadata, only size and time are valid in the guest too.
    file.set("core", None, "checkStat", b"minimal");
    file.set("core", None, "trustctime", b"false");
    file.set("core", None, "untrackedCache", b"false");
    if is_sparse(repository) {
        file.set("core", None, "sparseCheckout", b"true");
        file.set("core", None, "sparseCheckoutCone", get("core.sparsecheckoutcone").unwrap_or(b"true"));
    }
    for key in COPIED_KEYS {
        if let (Some(value), Some((section, name))) = (get(key), key.split_once('.')) {
            file.set(section, None, name, value);
        }
    }
    // The guest has no key to sign with.
    file.set("commit", None, "gpgsign", b"false");
    file.set("tag", None, "gpgsign", b"false");
    if let Some(url) = repository.origin() {
        file.set("remote", Some(b"origin"), "url", &url);
        file.set("remote", Some(b"origin"), "fetch", b"+refs/heads/*:refs/remotes/origin/*");
    }
    if let Some(branch) = checkout.branch.as_deref().and_then(|name| name.strip_prefix("refs/heads/")) {
        let merge = get(&format!("branch.{branch}.merge"));
        if let (Some(b"origin"), Some(merge)) = (get(&format!("branch.{branch}.remote")), merge) {
            file.set("branch", Some(branch.as_bytes()), "remote", b"origin");
            file.set("branch", Some(branch.as_bytes()), "merge", merge);
        }
    }
    file.text
}

/// A git configuration file under construction.
#[derive(Debug, Default)]
struct ConfigFile {
    text: Vec<u8>,
    section: Vec<u8>,
}

impl ConfigFile {
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
        // A subsection may contain neither.
        b'\n' | 0 => Vec::new(),
        _ => vec![byte],
    }
}
