//! Failures of the host's requests.

use std::io;

use banger_proto::{FailureKind, Reply};

/// A failure, as reported to the host.
#[derive(Debug)]
pub struct Failure {
    kind: FailureKind,
    message: String,
}

impl Failure {
    /// Returns a failure of `kind` with a message for the user.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// Returns a failure for an I/O error while doing `action`: "cannot {action}: …".
    pub(crate) fn io(action: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Self {
        move |error| {
            let kind = match error.kind() {
                io::ErrorKind::NotFound => FailureKind::NotFound,
                io::ErrorKind::PermissionDenied => FailureKind::NotPermitted,
                _ => FailureKind::Internal,
            };
            Self::new(kind, format!("cannot {action}: {error}"))
        }
    }
}

impl From<Failure> for Reply {
    fn from(failure: Failure) -> Self {
        Reply::Failed { kind: failure.kind, message: failure.message }
    }
}
