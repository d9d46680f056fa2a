//! Errors that end a connection.

use std::io;

use crate::fields::Malformed;

/// Error that ends a connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The client speaks another version of the protocol.
    #[error("the client does not use SSH version 2")]
    Version,
    /// Client and server have no algorithm in common.
    #[error("the client supports no known {kind} algorithm ({ours})")]
    NoCommonAlgorithm {
        /// The kind of algorithm.
        kind: &'static str,
        /// The server's algorithms.
        ours: String,
    },
    /// A packet or its data exceeds a limit.
    #[error("packet too long")]
    TooLong,
    /// A message's fields are incomplete.
    #[error("malformed message")]
    Malformed,
    /// A message with this number is not allowed now.
    #[error("unexpected message {0}")]
    Unexpected(u8),
    /// A packet or key is invalid.
    #[error("invalid packet or key")]
    Crypto,
    /// The client sent the message that ends the connection.
    #[error("the client closed the connection")]
    Disconnected,
    /// Reading or writing failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl From<Malformed> for Error {
    fn from(Malformed: Malformed) -> Self {
        Self::Malformed
    }
}
