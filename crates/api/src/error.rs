//! Errors as the API tells them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Remedy, Subject, SubjectKind};

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

/// An error: what failed and why, what it is about, what would help, and where to look.
///
/// The daemon says nothing of a client's commands: a client puts kind, subject and remedy into its own words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// For programs.
    pub kind: ErrorKind,
    /// What failed and why, for people.
    pub message: String,
    /// What it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Subject>,
    /// What would help, where that does not follow from kind and subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<Remedy>,
    /// The errors that it sums up, each to be dealt with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<ApiError>,
    /// What to do next, in the words of the client that made the error; never sent.
    #[serde(skip)]
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
        Self {
            kind,
            message: message.into(),
            subject: None,
            remedy: None,
            causes: Vec::new(),
            hint: None,
            log: None,
            console: Vec::new(),
        }
    }

    /// Sets what the error is about.
    #[must_use]
    pub fn about(mut self, kind: SubjectKind, name: impl fmt::Display) -> Self {
        self.subject = Some(Subject { kind, name: name.to_string() });
        self
    }

    /// Sets what would help.
    #[must_use]
    pub fn remedy(mut self, remedy: Remedy) -> Self {
        self.remedy = Some(remedy);
        self
    }

    /// Sets what to do next, in a client's own words.
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
