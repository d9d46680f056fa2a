//! Errors of running git.

use std::{io, time::Duration};

/// Errors of running git.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GitError {
    /// git is not installed.
    #[error("git was not found on PATH")]
    Missing,
    /// git is too old.
    #[error("git {version} is too old; banger needs git {minimum} or later")]
    TooOld {
        /// Its version, as it prints it.
        version: String,
        /// The oldest version that banger works with.
        minimum: &'static str,
    },
    /// git could not be run, or communication with it failed.
    #[error("cannot run git {what}: {source}")]
    Run {
        /// The git command.
        what: String,
        /// The cause.
        source: io::Error,
    },
    /// git exited with an error.
    #[error("git {what} failed: {stderr}")]
    Failed {
        /// The git command.
        what: String,
        /// Its standard error.
        stderr: String,
    },
    /// git timed out.
    #[error("git {what} timed out after {} s", limit.as_secs())]
    TimedOut {
        /// The git command.
        what: String,
        /// Its time limit.
        limit: Duration,
    },
    /// The caller cancelled it.
    #[error("git {what} was cancelled")]
    Cancelled {
        /// The git command.
        what: String,
    },
    /// git's output is malformed.
    #[error("unexpected output of git {what}: {problem}")]
    UnexpectedOutput {
        /// The git command.
        what: String,
        /// The problem.
        problem: String,
    },
}

impl GitError {
    /// Converts an error of reading from or writing to a running git.
    pub(crate) fn from_io(what: &str, error: io::Error) -> Self {
        error.downcast().unwrap_or_else(|source| Self::Run { what: what.to_owned(), source })
    }
}

pub(crate) fn unexpected_output(what: &str, problem: impl Into<String>) -> GitError {
    GitError::UnexpectedOutput { what: what.to_owned(), problem: problem.into() }
}
