//! Errors that end a connection.

use super::fields::Malformed;

/// Error that ends a connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(in crate::ssh) enum WireError {
    #[error("it is no SSH of version 2")]
    Version,
    #[error("it has no {what} that is known here ({ours})")]
    NothingInCommon { what: &'static str, ours: String },
    #[error("a packet is too long")]
    TooLong,
    #[error("a message makes no sense")]
    Malformed,
    #[error("message {0} came where it means nothing")]
    Unexpected(u8),
    #[error("a packet or key is not what it should be")]
    Crypto,
    #[error("it has ended the connection")]
    Disconnected,
}

impl From<Malformed> for WireError {
    fn from(Malformed: Malformed) -> Self {
        Self::Malformed
    }
}
