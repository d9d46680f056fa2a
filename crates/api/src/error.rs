//! Errors, as the API reports them.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{GuestText, RefError, Remedy, Subject, SubjectKind};

/// Kinds of errors. Programs may rely on them; kinds are added, never changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// No VM, image, kernel or operation matches the reference.
    NotFound,
    /// The name is already in use.
    AlreadyExists,
    /// The reference matches more than one thing.
    Ambiguous,
    /// The VM must be running for this.
    NotRunning,
    /// The target is in use, or another operation on it is in progress.
    Busy,
    /// The request, a file or an archive is invalid.
    Invalid,
    /// KVM was requested but is not usable on this host.
    NoKvm,
    /// No program that could run the VM is installed, or a host tool is missing.
    MissingProgram,
    /// A disk is full, or would be.
    NoSpace,
    /// The host does not have enough memory.
    NoMemory,
    /// The builds of `banger`, `bangerd` and the agent are incompatible.
    VersionSkew,
    /// Something exceeded its time limit.
    Timeout,
    /// Another host cannot be reached, or sends an invalid response.
    Unreachable,
    /// The guest ended, its agent cannot be reached, or it does not follow the protocol.
    Guest,
    /// The operation was cancelled.
    Cancelled,
    /// The user does not have permission.
    NotPermitted,
    /// The store cannot be read or written.
    Store,
    /// A file, socket or program of the host failed.
    Io,
    /// A bug in banger, or a kind that this build does not know.
    #[serde(other)]
    Internal,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// An error: what failed and why, its subject, a remedy, and where to find more.
///
/// The daemon does not name a client's commands; each client puts kind, subject and remedy into its own words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The kind, for programs.
    pub kind: ErrorKind,
    /// What failed and why, for people.
    pub message: String,
    /// Whether the guest reported it. Its message and kind are then the guest's own, and imply no remedy.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_guest: bool,
    /// The thing that the error is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Subject>,
    /// A remedy, if kind and subject do not imply it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<Remedy>,
    /// The errors that this one sums up, each with its own remedy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<ApiError>,
    /// The next step for the user, in the words of the client that created the error; never sent.
    #[serde(skip)]
    pub hint: Option<String>,
    /// Path of a log file with more details.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// The last lines of the guest's console, if they show the cause.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub console: Vec<String>,
}

impl ApiError {
    /// Creates an error with this kind and message, which may quote text that banger does not trust: as a
    /// [`GuestText`], it is one line, bounded, and has no hidden characters.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: GuestText::new(&message.into()).to_string(),
            from_guest: false,
            subject: None,
            remedy: None,
            causes: Vec::new(),
            hint: None,
            log: None,
            console: Vec::new(),
        }
    }

    /// Creates an error that the guest reported, in its own words.
    pub fn from_guest(kind: ErrorKind, text: &GuestText) -> Self {
        Self { from_guest: true, ..Self::new(kind, text.reported()) }
    }

    /// Creates the error for `reference`, which should name exactly one thing of this kind.
    pub fn unresolved(kind: SubjectKind, reference: &str, error: RefError) -> Self {
        let error = match error {
            RefError::NotFound => {
                Self::new(ErrorKind::NotFound, format!("there is no {} {reference:?}", kind.as_str()))
            }
            RefError::Ambiguous(names) => {
                let names = names.join(", ");
                let message = format!("{reference:?} could be any of the {}s {names}", kind.as_str());
                Self::new(ErrorKind::Ambiguous, message)
            }
        };
        error.about(kind, reference)
    }

    /// Sets the subject of the error.
    #[must_use]
    pub fn about(mut self, kind: SubjectKind, name: impl fmt::Display) -> Self {
        self.subject = Some(Subject { kind, name: name.to_string() });
        self
    }

    /// Sets the remedy.
    #[must_use]
    pub fn remedy(mut self, remedy: Remedy) -> Self {
        self.remedy = Some(remedy);
        self
    }

    /// Sets the next step for the user, in a client's own words.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Sets the log file with more details.
    #[must_use]
    pub fn log(mut self, log: impl Into<String>) -> Self {
        self.log = Some(log.into());
        self
    }

    /// Returns the HTTP status for the kind.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_one_bounded_line_without_hidden_characters() {
        let error = ApiError::new(ErrorKind::Io, "cannot read a\nhint: run\x1b[2J \u{202e}b");
        assert_eq!(error.message, "cannot read a hint: run^[[2J <U+202E>b");
        let long = ApiError::new(ErrorKind::Io, "x".repeat(1 << 20));
        assert_eq!(long.message.len(), GuestText::MAX);
    }

    #[test]
    fn an_error_from_the_guest_says_so() {
        let error = ApiError::from_guest(ErrorKind::NoSpace, &GuestText::new("full\nhint: run"));
        assert_eq!((error.message.as_str(), error.from_guest), ("the guest reports: full hint: run", true));
        let json = serde_json::to_string(&error).unwrap();
        assert!(json.contains(r#""from_guest":true"#), "{json}");
        assert!(!serde_json::to_string(&ApiError::new(ErrorKind::Io, "")).unwrap().contains("from_guest"));
    }

    #[test]
    fn unresolved_references_become_errors_with_a_subject() {
        let error = ApiError::unresolved(SubjectKind::Vm, "box", RefError::NotFound);
        assert_eq!((error.kind, &*error.message), (ErrorKind::NotFound, "there is no VM \"box\""));
        assert_eq!(error.subject.unwrap().name, "box");
        let several = RefError::Ambiguous(vec!["a1".to_owned(), "a2".to_owned()]);
        let error = ApiError::unresolved(SubjectKind::Image, "a", several);
        assert_eq!(error.kind, ErrorKind::Ambiguous);
        assert_eq!(error.message, "\"a\" could be any of the images a1, a2");
    }
}
