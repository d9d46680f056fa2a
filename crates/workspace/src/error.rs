//! Why a repository cannot go into a VM, or its work not come out.

use std::{io, path::PathBuf};

use banger_files::StreamError;

use crate::git::GitError;

/// What is wrong with a repository, a workspace or what came from one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkspaceError {
    /// Git cannot do it.
    #[error(transparent)]
    Git(#[from] GitError),
    /// There is nothing where one is looked for.
    #[error("there is no folder {}", .0.display())]
    NoFolder(PathBuf),
    /// It is in no repository.
    #[error("{} is in no git repository", .0.display())]
    NoRepository(PathBuf),
    /// It has no files of its own.
    #[error("{} is a bare repository, which has no files", .0.display())]
    Bare(PathBuf),
    /// Its configuration says that its files are in a folder where it is not found.
    #[error("the repository's configuration says that its files are in {}, which does not hold it", .0.display())]
    Elsewhere(PathBuf),
    /// Git does not trust it.
    #[error("the repository at {} is somebody else's, and git does not read it", .0.display())]
    SomebodyElses(PathBuf),
    /// It has parts that are repositories themselves.
    #[error("it has submodules: {}", names(.0))]
    Submodules(Vec<Vec<u8>>),
    /// Some of its objects are with its origin only.
    #[error("it is a partial clone: not all that it needs is on this host")]
    Partial,
    /// There is no such commit.
    #[error("there is no commit {0}")]
    NoCommit(String),
    /// It has no commit at all.
    #[error("it has no commit yet")]
    Unborn,
    /// A branch cannot be called so.
    #[error("a branch cannot be called {0}")]
    BranchName(String),
    /// A file of the repository's cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something cannot be written here.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The index makes no sense.
    #[error("the index of {place} cannot be read: {why}")]
    Index {
        /// Whose it is.
        place: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Git would not take such a path.
    #[error("{} cannot be sent: {why}", String::from_utf8_lossy(path))]
    Path {
        /// Which.
        path: Vec<u8>,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Sending would overwrite what was done in the VM.
    #[error("the VM has changes of its own where this would write: {}", names(.0))]
    Conflicts(Vec<Vec<u8>>),
    /// Another repository is there.
    #[error("what is there came from another repository, {}", .0.display())]
    Another(PathBuf),
    /// The guest says what makes no sense.
    #[error("what came from the guest is of no use: {0}")]
    Guest(#[from] StreamError),
    /// The guest has more than is taken from one.
    #[error("the guest has more changes than are taken from one: {0}")]
    TooMuch(String),
    /// What is known of a workspace cannot be read.
    #[error("what is known of this workspace ({}) cannot be read: {why}", path.display())]
    Record {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// What was to be sent could not be.
    #[error("it could not be sent: {0}")]
    Sending(io::Error),
}

/// A few names, and how many more there are.
fn names(paths: &[Vec<u8>]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<_> = paths.iter().take(SHOWN).map(|path| String::from_utf8_lossy(path)).collect();
    let more = paths.len().saturating_sub(SHOWN);
    let shown = shown.join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

pub(crate) fn reading(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> WorkspaceError {
    let path = path.into();
    move |source| WorkspaceError::Read { path, source }
}

pub(crate) fn writing(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> WorkspaceError {
    let path = path.into();
    move |source| WorkspaceError::Write { path, source }
}
