//! The files in a guest's git directory that name its work: refs, logs, and operations in progress. They are data
//! from the guest: a listing, and text in which ids are searched.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
};

use banger_files::{FileRequest, Kind, ListedFile};

use crate::{LeftOut, Record, Repository, record::is_ref_file};

/// Directories with the state of an operation in progress.
const OPERATION_DIRS: &[&[u8]] = &[b"rebase-merge/", b"rebase-apply/", b"sequencer/"];

/// The directory of working trees that share the repository.
const WORKTREES: &[u8] = b"worktrees/";

/// The directory of git LFS for content.
const LFS: &[u8] = b"lfs/objects/";

/// The repository's exclude patterns, and the main index.
const EXCLUDE: &[u8] = b"info/exclude";
const INDEX: &[u8] = b"index";

/// The parts of a guest's git directory that show work.
#[derive(Debug, Default)]
pub struct GitState {
    /// Paths are below the git directory.
    listed: Vec<ListedFile>,
    /// Content of the state files.
    files: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// A file of a working tree's state, and the ids that it names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct StateFile<'a> {
    /// Its path in the working tree's own git directory.
    pub(crate) name: &'a [u8],
    pub(crate) ids: BTreeSet<String>,
    /// Whether it contains one id and nothing else.
    pub(crate) is_pseudo_ref: bool,
}

impl GitState {
    /// Adds a file of the git directory, unless it is an object or another file without state.
    pub(crate) fn add(&mut self, file: ListedFile) {
        if shows_work(&file.path) || [EXCLUDE, INDEX].contains(&file.path.as_slice()) {
            self.listed.push(file);
        }
    }

    /// Returns whether nothing shows that the guest's git was used since `record` was sent.
    pub fn is_as_sent(&self, record: &Record) -> bool {
        let sent = |file: &ListedFile| record.files.get([b".git/", file.path.as_slice()].concat().as_slice());
        let mut files = self.listed.iter().filter(|file| shows_work(&file.path));
        files.all(|file| sent(file).is_some_and(|sent| sent.is_unchanged(file)))
    }

    /// Returns the state files and the exclude patterns, which have to be fetched.
    pub fn files(&self) -> FileRequest {
        let is_text = |file: &&ListedFile| {
            let (_, name) = split(&file.path);
            file.kind == Kind::File
                && (is_operation_file(name) || file.path.ends_with(b"/gitdir") || file.path == EXCLUDE)
        };
        FileRequest::new(self.listed.iter().filter(is_text).map(|file| (file.path.clone(), file.size)))
    }

    /// Accepts the content of the state files.
    pub fn set_files(&mut self, files: BTreeMap<Vec<u8>, Vec<u8>>) {
        self.files = files;
    }

    /// Returns the content of git LFS that `repository` does not have. It is not part of any commit.
    pub fn left_out(&self, repository: &Repository) -> Vec<LeftOut> {
        let is_missing =
            |file: &&ListedFile| !repository.common_dir.join(OsStr::from_bytes(&file.path)).exists();
        let objects = self.listed.iter().filter(|file| file.path.starts_with(LFS)).filter(is_missing);
        let left_out = |file: &ListedFile| LeftOut {
            path: [b".git/", file.path.as_slice()].concat(),
            reason: "it is content of git LFS that this host does not have",
            is_work: true,
        };
        objects.map(left_out).collect()
    }

    /// Returns the names of the working trees that share the repository.
    pub(crate) fn worktrees(&self) -> BTreeSet<&[u8]> {
        // git may leave logs of a working tree that it has removed.
        let is_own = |name: &[u8]| [&b"HEAD"[..], b"gitdir", b"index"].contains(&name);
        let split = self.listed.iter().map(|file| split(&file.path));
        split.filter(|(_, name)| is_own(name)).filter_map(|(tree, _)| tree).collect()
    }

    /// Returns the listed file `name` of the working tree `worktree`; `None` is the main one.
    pub(crate) fn file(&self, worktree: Option<&[u8]>, name: &[u8]) -> Option<&ListedFile> {
        self.listed.iter().find(|file| split(&file.path) == (worktree, name))
    }

    /// Returns the content of the state file `name` of the working tree `worktree`.
    pub(crate) fn content(&self, worktree: Option<&[u8]>, name: &[u8]) -> Option<&[u8]> {
        let mut files = self.files.iter();
        files.find(|(path, _)| split(path) == (worktree, name)).map(|(_, content)| content.as_slice())
    }

    /// Returns the state files of the working tree `worktree`, with ids of `id_length` bytes.
    pub(crate) fn state(&self, worktree: Option<&[u8]>, id_length: usize) -> Vec<StateFile<'_>> {
        let files = self.files.iter().map(|(path, content)| (split(path), content));
        files
            .filter(|((tree, name), _)| *tree == worktree && is_operation_file(name) && *name != b"HEAD")
            .map(|((_, name), content)| {
                let ids = ids(content, id_length);
                let is_pseudo_ref = ids.len() == 1 && content.trim_ascii().len() == 2 * id_length;
                StateFile { name, ids, is_pseudo_ref }
            })
            .collect()
    }
}

/// Splits a path below the git directory into a working tree's name and the path in its own git directory.
fn split(path: &[u8]) -> (Option<&[u8]>, &[u8]) {
    let within = path.strip_prefix(WORKTREES).and_then(|rest| {
        let slash = rest.iter().position(|byte| *byte == b'/')?;
        Some((rest.get(..slash)?, rest.get(slash + 1..)?))
    });
    within.map_or((None, path), |(worktree, name)| (Some(worktree), name))
}

/// Returns whether the file at `path` below the git directory shows that git was used.
fn shows_work(path: &[u8]) -> bool {
    let is_dir = |dir: &&[u8]| path.starts_with(dir);
    is_ref_file(&[b".git/", path].concat())
        || [&b"logs/"[..], b"reftable/", WORKTREES, LFS].iter().any(is_dir)
        || is_operation_file(path)
}

/// Returns whether the file `name` of a working tree's git directory is a pseudo-ref or belongs to an operation in
/// progress.
fn is_operation_file(name: &[u8]) -> bool {
    let is_upper = |byte: &u8| byte.is_ascii_uppercase() || *byte == b'_';
    OPERATION_DIRS.iter().any(|dir| name.starts_with(dir)) || !name.is_empty() && name.iter().all(is_upper)
}

/// Returns the full object ids among the words of `text`.
fn ids(text: &[u8], id_length: usize) -> BTreeSet<String> {
    let words = text.split(|byte| !byte.is_ascii_alphanumeric());
    words
        .filter(|word| word.len() == 2 * id_length && word.iter().all(u8::is_ascii_hexdigit))
        .map(|word| String::from_utf8_lossy(word).to_ascii_lowercase())
        .filter(|id| id.bytes().any(|digit| digit != b'0'))
        .collect()
}
