//! A command's failure, and the exit status that it is.

use std::io;

use banger_api::{ApiError, ErrorKind};

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
