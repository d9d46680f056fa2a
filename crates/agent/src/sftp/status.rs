//! Failures of requests, as status responses.

use std::io;

use rustix::io::Errno;

use super::packet::{Malformed, Packet};

const STATUS: u8 = 101;

/// A result of a request that is neither success nor data.
#[derive(Debug)]
pub(super) enum StatusError {
    /// There is nothing more to read.
    End,
    Io(io::Error),
    /// The packet is malformed, or names an unknown handle.
    Malformed,
    Unsupported,
    /// Too many files are open.
    TooMany,
}

impl From<io::Error> for StatusError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Errno> for StatusError {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

impl From<Malformed> for StatusError {
    fn from(Malformed: Malformed) -> Self {
        Self::Malformed
    }
}

impl StatusError {
    /// Returns the status code and a message for people.
    fn status(&self) -> (u32, String) {
        match self {
            Self::End => (1, "End of file".to_owned()),
            Self::Malformed => (5, "Bad message".to_owned()),
            Self::Unsupported => (8, "Operation unsupported".to_owned()),
            Self::TooMany => (4, "Too many open files".to_owned()),
            Self::Io(error) => {
                let code = match Errno::from_io_error(error) {
                    Some(Errno::NOENT | Errno::NOTDIR | Errno::BADF | Errno::LOOP) => 2,
                    Some(Errno::PERM | Errno::ACCESS | Errno::FAULT) => 3,
                    Some(Errno::NAMETOOLONG | Errno::INVAL) => 5,
                    Some(Errno::NOSYS | Errno::OPNOTSUPP) => 8,
                    _ => 4,
                };
                (code, error.to_string())
            }
        }
    }
}

/// Returns the status response to request `id`.
pub(super) fn status(id: u32, outcome: Result<(), StatusError>) -> Packet {
    let (code, message) = match outcome {
        Ok(()) => (0, "Success".to_owned()),
        Err(error) => error.status(),
    };
    Packet::with_id(STATUS, id).u32(code).bytes(message.as_bytes()).bytes(b"")
}
