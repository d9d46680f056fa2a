//! Errors as the API tells them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The kinds of error. Programs may rely on them; kinds are added, never changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// No VM, image, kernel or operation has that reference.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The reference fits more than one.
    Ambiguous,
    /// The VM must be running for this.
    NotRunning,
    /// Something else is being done to it, or it is in use.
    Busy,
    /// The request, a file or an archive is not as it must be.
    Invalid,
    /// KVM was asked for and is not usable here.
    NoKvm,
    /// No program that could run the VM is installed, or a host tool is missing.
    MissingProgram,
    /// A disk is full, or would be.
    NoSpace,
    /// The host does not have the memory.
    NoMemory,
    /// `banger`, `bangerd` and the agent are of builds that do not go together.
    VersionSkew,
    /// Something did not happen within its time limit.
    Timeout,
    /// Another host cannot be reached, or does not answer as it must.
    Unreachable,
    /// The guest ended, or does not follow the protocol.
    Guest,
    /// It was cancelled.
    Cancelled,
    /// The user may not do this.
    NotPermitted,
    /// The store cannot be read.
    Store,
    /// A file, socket or program of the host failed.
    Io,
    /// A mistake in banger itself, or a kind that this build does not know.
    #[serde(other)]
    Internal,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// An error: what failed and why, what to do next, and where to look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// For programs.
    pub kind: ErrorKind,
    /// What failed and why, for people.
    pub message: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// A log file that tells more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// The last lines of the guest's console, where they tell why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub console: Vec<String>,
}

impl ApiError {
    /// An error of this kind with this message.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, log: None, console: Vec::new() }
    }

    /// With what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With the log file that tells more.
    #[must_use]
    pub fn log(mut self, log: impl Into<String>) -> Self {
        self.log = Some(log.into());
        self
    }

    /// The HTTP status that goes with the kind.
    pub fn http_status(&self) -> u16 {
        match self.kind {
            ErrorKind::NotFound => 404,
            ErrorKind::AlreadyExists | ErrorKind::Ambiguous | ErrorKind::NotRunning | ErrorKind::Busy => 409,
            ErrorKind::Invalid => 400,
            ErrorKind::NotPermitted => 403,
            ErrorKind::VersionSkew => 412,
            ErrorKind::NoSpace | ErrorKind::NoMemory => 507,
            ErrorKind::Timeout => 504,
            _ => 500,
        }
    }
}
