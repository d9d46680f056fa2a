//! Errors of unpacking.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::stream::StreamError;

/// Errors of unpacking.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The stream is invalid or cannot be read.
    #[error("cannot unpack the received data: {0}")]
    Stream(#[from] StreamError),
    /// The target's parent directory does not exist.
    #[error("there is no directory {}", .0.display())]
    NoDirectory(PathBuf),
    /// A directory is required, but something else exists.
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// The target is a directory, and the data has no name for a file in it.
    #[error("{} is a directory, and the input has no file name", .0.display())]
    NeedsName(PathBuf),
    /// The target is a symbolic link to a directory.
    #[error("{} is a symbolic link to a directory", .0.display())]
    LinkToDirectory(PathBuf),
    /// Something exists that is neither a file nor a link, and is not replaced.
    #[error("{} is {kind} and is not replaced", path.display())]
    NotReplaced {
        /// Its path.
        path: PathBuf,
        /// Its kind, as the message names it.
        kind: &'static str,
    },
    /// A file was expected, but the stream holds something else.
    #[error("the source is {0}, not a file")]
    NotAFile(&'static str),
    /// The stream holds something of another kind than requested.
    #[error("received {received} in place of {requested}")]
    OtherKind {
        /// The kind that was requested, as the message names it.
        requested: &'static str,
        /// The kind that arrived.
        received: &'static str,
    },
    /// The file system would be nearly full.
    #[error("cannot write {}: less than {reserve} would stay free", path.display())]
    Reserved {
        /// Path of the file.
        path: PathBuf,
        /// The space that stays free, as the message names it.
        reserve: String,
    },
    /// The target exists, and is not an empty directory.
    #[error("{} already exists and is not an empty directory", .0.display())]
    Occupied(PathBuf),
    /// Another process is placing or changing a tree in this directory.
    #[error("another process is writing to {}", .0.display())]
    Busy(PathBuf),
    /// Only a part of the file arrived.
    #[error("the file could not be read completely")]
    Broken,
    /// A file or directory could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// Its path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

pub(crate) fn failed(path: &Path) -> impl FnOnce(io::Error) -> UnpackError {
    move |source| UnpackError::Write { path: path.to_owned(), source }
}
