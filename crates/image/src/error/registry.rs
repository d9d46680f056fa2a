//! What can go wrong with a registry, by what a person can do about it.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use banger_api::Digest;

use super::failure::FailureKind;
use super::manifest::ManifestError;

/// Longest text taken from a registry into a message, in characters.
const LONGEST_MESSAGE: usize = 200;

/// Why an image could not be had from a registry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The registry does not have it, or does not say that it has.
    #[error("{host} does not have {what}{}", said(message))]
    NotFound {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// What it said.
        message: String,
    },
    /// The registry wants another user, or any.
    #[error("{host} refuses access{}: {}", said(message), advice(host, *shown))]
    NotPermitted {
        /// The registry.
        host: String,
        /// What it said.
        message: String,
        /// Whether it was shown credentials.
        shown: bool,
    },
    /// No connection.
    #[error("cannot reach {host}: {reason}")]
    Unreachable {
        /// The registry, or who speaks for it.
        host: String,
        /// Why not.
        reason: String,
    },
    /// Nothing came for too long.
    #[error("{host} did not answer within {limit:?}")]
    Stalled {
        /// The registry, or who speaks for it.
        host: String,
        /// The time it had.
        limit: Duration,
    },
    /// Whoever answers is not known to be the registry.
    #[error("the certificate of {host} is not trusted ({reason}): if it has a CA of its own, configure that")]
    Certificate {
        /// The registry.
        host: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file with a registry's CA is not usable.
    #[error("cannot use {} as the CA of {host}: {reason}", path.display())]
    Ca {
        /// The registry.
        host: String,
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The registry is out of order, or wants fewer requests.
    #[error("{host} answers with status {status}{}", said(message))]
    Status {
        /// The registry.
        host: String,
        /// Of HTTP.
        status: u16,
        /// What it said.
        message: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// A transfer ended early.
    #[error("the connection to {host} broke after {done} of {size} bytes of {what}")]
    Cut {
        /// The registry.
        host: String,
        /// Of what: a digest, or in words.
        what: String,
        /// What is there.
        done: u64,
        /// What there should be.
        size: u64,
    },
    /// An answer that makes no sense.
    #[error("{host} gave an answer that cannot be used: {problem}")]
    Answer {
        /// The registry, or who speaks for it.
        host: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An answer that is longer than anything sound.
    #[error("{host} sends more than {limit} bytes as {what}")]
    TooLong {
        /// The registry.
        host: String,
        /// What was asked for.
        what: &'static str,
        /// How long it may be.
        limit: u64,
    },
    /// Content of another length than the manifest says.
    #[error("{digest} should have {expected} bytes and has {found}")]
    WrongLength {
        /// Of what.
        digest: Digest,
        /// By the manifest.
        expected: u64,
        /// By the content or the registry.
        found: u64,
    },
    /// Content that is not what its name says.
    #[error("{host} sent something else as {expected}: its digest is {found}")]
    WrongDigest {
        /// The registry.
        host: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// What it has is not an image for here.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

impl RegistryError {
    /// What kind of failure this is.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::NotFound { .. } => FailureKind::NotFound,
            Self::NotPermitted { .. } => FailureKind::NotPermitted,
            Self::Unreachable { .. } | Self::Status { .. } | Self::Cut { .. } => FailureKind::Unreachable,
            Self::Stalled { .. } => FailureKind::Timeout,
            _ => FailureKind::Invalid,
        }
    }

    /// Whether it may well go away when it is tried again.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Stalled { .. } | Self::Cut { .. } => true,
            Self::Status { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        }
    }

    /// For a request to `host` that had no answer, or only the beginning of one.
    pub(crate) fn of_request(host: &str, limit: Duration, error: &reqwest::Error) -> Self {
        let host = host.to_owned();
        if error.is_timeout() {
            return Self::Stalled { host, limit };
        }
        let mut reason = String::new();
        let mut next: Option<&(dyn Error + 'static)> = error.source();
        while let Some(cause) = next {
            // Only the innermost says why; those around it where.
            reason = cause.to_string();
            // An I/O error's source is that of the error in it, which is passed over so.
            let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            next = inner.map(|inner| inner as &(dyn Error + 'static)).or_else(|| cause.source());
            if let Some(rustls::Error::InvalidCertificate(_)) = cause.downcast_ref() {
                return Self::Certificate { host, reason: sanitised(&reason) };
            }
        }
        let reason = if reason.is_empty() { "the request failed".to_owned() } else { sanitised(&reason) };
        match error.is_redirect() {
            true => Self::Answer { host, problem: reason },
            false => Self::Unreachable { host, reason },
        }
    }
}

/// The first line of `text`, without what a terminal would act on.
pub(crate) fn sanitised(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).take(LONGEST_MESSAGE).collect()
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(" ({message})") }
}

fn advice(host: &str, shown: bool) -> String {
    match shown {
        true => format!("the credentials do not permit it, see `docker login {host}`"),
        false => format!("it may not exist, or need `docker login {host}`"),
    }
}
