//! Errors of sending a repository to a VM and of bringing work back.

use std::{io, path::PathBuf};

use banger_files::StreamError;

use crate::{git_error::GitError, size::size_text};

/// An error about a repository, a workspace, or data from a workspace.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkspaceError {
    /// git failed.
    #[error(transparent)]
    Git(#[from] GitError),
    /// The path does not exist.
    #[error("there is no directory {}", .0.display())]
    NoDirectory(PathBuf),
    /// The path is not in a git repository.
    #[error("{} is not in a git repository", .0.display())]
    NoRepository(PathBuf),
    /// The repository is bare.
    #[error("{} is a bare repository, which has no files", .0.display())]
    Bare(PathBuf),
    /// The repository's configuration names a working tree that does not belong to it.
    #[error("the repository's core.worktree is {}, which does not belong to the repository", .0.display())]
    ForeignWorkTree(PathBuf),
    /// A part of the repository leads to something of another repository, or to any other place.
    #[error("{} leads to {}, which does not belong to the repository", part.display(), target.display())]
    Foreign {
        /// The link, file or configuration key.
        part: PathBuf,
        /// What it leads to.
        target: PathBuf,
    },
    /// git does not trust the repository's owner.
    #[error("the repository at {} belongs to another user, and git does not read it", .0.display())]
    UntrustedOwner(PathBuf),
    /// The repository has submodules.
    #[error("it has submodules: {}", names(.0))]
    Submodules(Vec<Vec<u8>>),
    /// The repository is a partial clone, so some objects are only at its origin.
    #[error("it is a partial clone: some of its objects are not on this host")]
    PartialClone,
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
    #[error("the index of {location} cannot be read: {problem}")]
    Index {
        /// Its owner, for the message.
        location: String,
        /// The problem.
        problem: &'static str,
    },
    /// git would refuse this path.
    #[error("{} cannot be sent: {problem}", String::from_utf8_lossy(path))]
    Path {
        /// The path.
        path: Vec<u8>,
        /// The problem.
        problem: &'static str,
    },
    /// Sending would overwrite changes in the VM.
    #[error("the VM has changes that this would overwrite: {}", names(.0))]
    Conflicts(Vec<Vec<u8>>),
    /// The workspace came from another repository.
    #[error("the workspace came from another repository, {}", .0.display())]
    OtherRepository(PathBuf),
    /// Data from the guest is malformed.
    #[error("cannot read the data from the guest: {0}")]
    GuestData(#[from] StreamError),
    /// A file in the guest became larger than it was listed.
    #[error("{} in the guest became larger while it was read", String::from_utf8_lossy(.0))]
    Grown(Vec<u8>),
    /// The guest's data exceeds a limit.
    #[error("the VM's {what} exceed the limit of {limit}")]
    TooLarge {
        /// The kind of data.
        what: &'static str,
        /// The limit, with its unit.
        limit: String,
    },
    /// The host has too little space for the guest's data.
    #[error("{} has too little free space: {} needed, {} available", path.display(), size_text(*size), size_text(*free))]
    NoSpace {
        /// The directory that needs space.
        path: PathBuf,
        /// Bytes needed.
        size: u64,
        /// Bytes available, without those that banger leaves free.
        free: u64,
    },
    /// git cannot be run in the guest, for the reason that it or the guest reports.
    #[error("the VM's commits can only be read by its git, which does not run: {0}")]
    NoGuestGit(String),
    /// git failed in the guest.
    #[error("git {command} failed in the VM: {stderr}")]
    GuestGit {
        /// The git command.
        command: String,
        /// Its standard error.
        stderr: String,
    },
    /// Objects of the guest's work are missing.
    #[error("the VM's commits are incomplete: {0}")]
    Incomplete(GitError),
    /// Work could not be pulled.
    #[error("everything was saved except {}", reasons(.0))]
    Unreadable(Vec<(Vec<u8>, &'static str)>),
    /// The record of a workspace cannot be read.
    #[error("cannot read the workspace record {}: {problem}", path.display())]
    Record {
        /// Its path.
        path: PathBuf,
        /// The problem.
        problem: String,
    },
    /// Sending failed.
    #[error("the transfer failed: {0}")]
    Transfer(io::Error),
}

/// Lists the first few paths with their reasons, and the number of the others.
fn reasons(files: &[(Vec<u8>, &'static str)]) -> String {
    let files: Vec<_> =
        files.iter().map(|(path, reason)| [path, &b" ("[..], reason.as_bytes(), b")"].concat()).collect();
    names(&files)
}

/// Lists the first few names, and the number of the others.
fn names(paths: &[Vec<u8>]) -> String {
    const MAX_SHOWN: usize = 8;
    let shown: Vec<_> = paths.iter().take(MAX_SHOWN).map(|path| String::from_utf8_lossy(path)).collect();
    let more = paths.len().saturating_sub(MAX_SHOWN);
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
