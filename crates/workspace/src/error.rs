//! Errors of sending a repository to a VM and of bringing work back.

use std::{io, path::PathBuf};

use banger_files::StreamError;

use crate::git::GitError;

/// An error about a repository, a workspace, or data from a workspace.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkspaceError {
    /// git failed.
    #[error(transparent)]
    Git(#[from] GitError),
    /// The path does not exist.
    #[error("there is no directory {}", .0.display())]
    NoFolder(PathBuf),
    /// The path is not in a git repository.
    #[error("{} is not in a git repository", .0.display())]
    NoRepository(PathBuf),
    /// The repository is bare.
    #[error("{} is a bare repository, which has no files", .0.display())]
    Bare(PathBuf),
    /// The repository's configuration names a working tree that does not belong to it.
    #[error("the repository's core.worktree is {}, which does not belong to the repository", .0.display())]
    Elsewhere(PathBuf),
    /// git does not trust the repository's owner.
    #[error("the repository at {} belongs to another user, and git does not read it", .0.display())]
    SomebodyElses(PathBuf),
    /// The repository has submodules.
    #[error("it has submodules: {}", names(.0))]
    Submodules(Vec<Vec<u8>>),
    /// The repository is a partial clone, so some objects are only at its origin.
    #[error("it is a partial clone: some of its objects are not on this host")]
    Partial,
    /// The commit does not exist.
    #[error("there is no commit {0}")]
    NoCommit(String),
    /// The repository has no commit yet.
    #[error("it has no commit yet")]
    Unborn,
    /// The name is not valid for a branch.
    #[error("{0} is not a valid branch name")]
    BranchName(String),
    /// A file of the repository cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file on the host cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// Its path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// An index is malformed.
    #[error("the index of {place} cannot be read: {why}")]
    Index {
        /// Its owner, for the message.
        place: String,
        /// The problem.
        why: &'static str,
    },
    /// git would refuse this path.
    #[error("{} cannot be sent: {why}", String::from_utf8_lossy(path))]
    Path {
        /// The path.
        path: Vec<u8>,
        /// The problem.
        why: &'static str,
    },
    /// Sending would overwrite changes in the VM.
    #[error("the VM has changes that this would overwrite: {}", names(.0))]
    Conflicts(Vec<Vec<u8>>),
    /// The workspace came from another repository.
    #[error("the workspace came from another repository, {}", .0.display())]
    Another(PathBuf),
    /// Data from the guest is malformed.
    #[error("cannot read the data from the guest: {0}")]
    Guest(#[from] StreamError),
    /// The guest's data exceeds a limit.
    #[error("the guest's {0} are too large")]
    TooMuch(String),
    /// The record of a workspace cannot be read.
    #[error("cannot read the workspace record {}: {why}", path.display())]
    Record {
        /// Its path.
        path: PathBuf,
        /// The problem.
        why: String,
    },
    /// Sending failed.
    #[error("the transfer failed: {0}")]
    Sending(io::Error),
}

/// Lists the first few names, and the number of the others.
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
