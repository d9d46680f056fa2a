//! A command's failure and its exit status.

use std::{io, path::Path};

use banger_api::{ApiError, ErrorKind};
use rustix::process::Signal;

/// Exit status of a command that failed.
const FAILED: u8 = 1;
/// Exit status of banger's own failure in commands that otherwise return the guest command's status.
const FAILED_IN_SESSION: u8 = 125;
/// Exit status of wrong usage.
const USAGE: u8 = 2;

/// A command's failure.
#[derive(Debug)]
pub(crate) struct CommandError {
    /// Error to print; `None` if it was already printed, or if the output has no reader.
    pub(crate) error: Option<ApiError>,
    pub(crate) status: u8,
}

impl CommandError {
    /// Returns a failure of `vm run`, `exec`, `shell` or `ssh`.
    pub(crate) fn in_session(error: ApiError) -> Self {
        Self { error: Some(error), status: FAILED_IN_SESSION }
    }

    /// Returns this failure as one of such a command.
    pub(crate) fn into_session(self) -> Self {
        self.error.map_or(Self { error: None, ..self }, Self::in_session)
    }

    /// Adds `hint` to the error, if there are both.
    pub(crate) fn with_hint(self, hint: Option<String>) -> Self {
        match (self.error, hint) {
            (Some(error), Some(hint)) => Self { error: Some(error.hint(hint)), ..self },
            (error, _) => Self { error, ..self },
        }
    }

    /// Returns a usage error that only the combination of arguments shows.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { error: Some(ApiError::new(ErrorKind::Invalid, message)), status: USAGE }
    }

    /// Returns the failure after a signal, with the status that a shell uses (128+n).
    pub(crate) fn interrupted(signal: Signal) -> Self {
        Self::already_reported(u8::try_from(128 + signal.as_raw()).unwrap_or(u8::MAX))
    }

    /// Returns a failure that was already reported.
    pub(crate) fn already_reported(status: u8) -> Self {
        Self { error: None, status }
    }
}

impl From<ApiError> for CommandError {
    fn from(error: ApiError) -> Self {
        Self { error: Some(error), status: FAILED }
    }
}

impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> Self {
        // The reader of the output has closed it.
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::already_reported(FAILED);
        }
        ApiError::new(ErrorKind::Io, error.to_string()).into()
    }
}

/// Returns the error for a user's file that cannot be read.
pub(crate) fn unreadable(path: &Path, error: &io::Error) -> ApiError {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied => ErrorKind::NotPermitted,
        _ => ErrorKind::Io,
    };
    ApiError::new(kind, format!("cannot read {}: {error}", path.display()))
}
