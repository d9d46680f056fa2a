//! Errors of registries, by remedy.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use banger_api::{Digest, GuestText};

use super::failure::FailureKind;
use super::manifest::ManifestError;

/// Maximum length of a registry's text in a message, in bytes.
const MAX_MESSAGE: usize = 200;

/// Reason why a registry request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The registry does not have the object, or hides it.
    #[error("{host} does not have {what}{}", in_parentheses(message))]
    NotFound {
        /// The registry.
        host: String,
        /// The requested object.
        what: String,
        /// The registry's message.
        message: String,
    },
    /// The registry requires a login, or refuses access to this user.
    #[error("{host} refuses access{}: {}", in_parentheses(message), advice(host, *authenticated))]
    NotPermitted {
        /// The registry.
        host: String,
        /// The registry's message.
        message: String,
        /// Whether banger sent credentials.
        authenticated: bool,
    },
    /// The connection failed.
    #[error("cannot reach {host}: {reason}")]
    Unreachable {
        /// The registry, or another server that it refers to.
        host: String,
        /// The reason.
        reason: String,
    },
    /// The server did not answer in time.
    #[error("{host} did not answer within {limit:?}")]
    Timeout {
        /// The registry, or another server that it refers to.
        host: String,
        /// The timeout.
        limit: Duration,
    },
    /// The server's certificate is not trusted.
    #[error("the certificate of {host} is trusted neither by this host nor by a configured CA: {reason}")]
    Certificate {
        /// The registry.
        host: String,
        /// The reason.
        reason: String,
    },
    /// The file with a registry's CA cannot be used.
    #[error("cannot use {} as the CA of {host}: {reason}", path.display())]
    Ca {
        /// The registry.
        host: String,
        /// Path of the file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// The registry failed, or limits the rate of requests.
    #[error("{host} answers with status {status}{}", in_parentheses(message))]
    Status {
        /// The registry.
        host: String,
        /// HTTP status code.
        status: u16,
        /// The registry's message.
        message: String,
        /// Delay that the registry asks for before a retry.
        retry_after: Option<Duration>,
    },
    /// A transfer ended early.
    #[error("the connection to {host} broke after {done} of {size} bytes of {what}")]
    Interrupted {
        /// The registry.
        host: String,
        /// The content: a digest, or a description.
        what: String,
        /// Bytes received.
        done: u64,
        /// Expected bytes.
        size: u64,
    },
    /// A response is invalid.
    #[error("{host} sent an invalid response: {problem}")]
    InvalidResponse {
        /// The registry, or another server that it refers to.
        host: String,
        /// The problem.
        problem: String,
    },
    /// A response is too long.
    #[error("{host} sent more than {limit} bytes for {what}")]
    TooLong {
        /// The registry.
        host: String,
        /// The requested object.
        what: &'static str,
        /// The limit in bytes.
        limit: u64,
    },
    /// The content's length differs from the manifest's.
    #[error("{digest} should have {expected} bytes and has {found}")]
    WrongLength {
        /// Digest of the content.
        digest: Digest,
        /// Length in the manifest, in bytes.
        expected: u64,
        /// Actual length, or the registry's, in bytes.
        found: u64,
    },
    /// The content has another digest than requested.
    #[error("{host} sent content with the digest {found}; expected {expected}")]
    WrongDigest {
        /// The registry.
        host: String,
        /// The requested digest.
        expected: Digest,
        /// The actual digest.
        found: Digest,
    },
    /// The registry's image is not usable here.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

impl RegistryError {
    /// Returns the kind of failure.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::NotFound { .. } => FailureKind::NotFound,
            Self::NotPermitted { .. } => FailureKind::NotPermitted,
            Self::Unreachable { .. } | Self::Status { .. } | Self::Interrupted { .. } => {
                FailureKind::Unreachable
            }
            Self::Timeout { .. } => FailureKind::Timeout,
            _ => FailureKind::Invalid,
        }
    }

    /// Returns whether the error is transient, so that a retry may succeed.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::Interrupted { .. } => true,
            Self::Status { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        }
    }

    /// Creates the error for a request to `host` with no response, or an incomplete one.
    pub(crate) fn from_request(host: &str, limit: Duration, error: &reqwest::Error) -> Self {
        let host = host.to_owned();
        if error.is_timeout() {
            return Self::Timeout { host, limit };
        }
        let mut reason = String::new();
        let mut next: Option<&(dyn Error + 'static)> = error.source();
        while let Some(cause) = next {
            // The innermost error has the reason; the outer ones only have the context.
            reason = cause.to_string();
            // `source()` of an I/O error skips the error that it wraps, so get that one explicitly.
            let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            next = inner.map(|inner| inner as &(dyn Error + 'static)).or_else(|| cause.source());
            if let Some(rustls::Error::InvalidCertificate(_)) = cause.downcast_ref() {
                return Self::Certificate { host, reason: sanitised(&reason) };
            }
        }
        let reason = if reason.is_empty() { "the request failed".to_owned() } else { sanitised(&reason) };
        match error.is_redirect() {
            true => Self::InvalidResponse { host, problem: reason },
            false => Self::Unreachable { host, reason },
        }
    }
}

/// Returns the first line of `text`, shortened and without hidden characters.
pub(crate) fn sanitised(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    GuestText::bounded(line, MAX_MESSAGE).to_string()
}

fn in_parentheses(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(" ({message})") }
}

fn advice(host: &str, authenticated: bool) -> String {
    match authenticated {
        true => format!("the credentials do not permit it; see `docker login {host}`"),
        false => format!("the image may not exist, or may need `docker login {host}`"),
    }
}
