//! A command's failure, and the exit status that it is.

use std::{io, path::Path};

use banger_api::{ApiError, ErrorKind};
use rustix::process::Signal;

/// Exit status of a command that failed.
const FAILED: u8 = 1;
/// Exit status where the guest command's own status would be, and banger itself failed.
const FAILED_IN_SESSION: u8 = 125;
/// Exit status of wrong usage.
const USAGE: u8 = 2;

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct CommandError {
    /// What to tell; nothing when it has been told, or when there is nobody left to tell.
    pub(crate) error: Option<ApiError>,
    pub(crate) status: u8,
}

impl CommandError {
    /// A failure of `vm run`, `exec`, `shell` or `ssh`.
    pub(crate) fn in_session(error: ApiError) -> Self {
        Self { error: Some(error), status: FAILED_IN_SESSION }
    }

    /// Wrong usage that only shows when the arguments are looked at together.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { error: Some(ApiError::new(ErrorKind::Invalid, message)), status: USAGE }
    }

    /// The end by a signal, as a shell tells it of a command.
    pub(crate) fn interrupted(signal: Signal) -> Self {
        Self::told(u8::try_from(128 + signal.as_raw()).unwrap_or(u8::MAX))
    }

    /// A failure that has been told.
    pub(crate) fn told(status: u8) -> Self {
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
        // Whoever read the output has had enough.
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::told(FAILED);
        }
        ApiError::new(ErrorKind::Io, error.to_string()).into()
    }
}

/// The failure to read a file of the user's.
pub(crate) fn unreadable(path: &Path, error: &io::Error) -> ApiError {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied => ErrorKind::NotPermitted,
        _ => ErrorKind::Io,
    };
    ApiError::new(kind, format!("cannot read {}: {error}", path.display()))
}
