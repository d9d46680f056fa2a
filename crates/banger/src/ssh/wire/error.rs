//! Errors that end a connection.

use super::fields::Malformed;

/// Error that ends a connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(in crate::ssh) enum WireError {
    #[error("the client does not use SSH version 2")]
    Version,
    #[error("the client supports no known {kind} algorithm ({ours})")]
    NoCommonAlgorithm { kind: &'static str, ours: String },
    #[error("packet too long")]
    TooLong,
    #[error("malformed message")]
    Malformed,
    #[error("unexpected message {0}")]
    Unexpected(u8),
    #[error("invalid packet or key")]
    Crypto,
    #[error("the client closed the connection")]
    Disconnected,
}

impl From<Malformed> for WireError {
    fn from(Malformed: Malformed) -> Self {
        Self::Malformed
    }
}
