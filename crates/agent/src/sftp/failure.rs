//! Why a request is not carried out, as the protocol tells it.

use std::io;

use rustix::io::Errno;

use super::packet::{Malformed, Packet};

const STATUS: u8 = 101;

/// The outcome of a request that has no answer of its own.
#[derive(Debug)]
pub(super) enum Refused {
    /// There is no more.
    End,
    Io(io::Error),
    /// The packet is none, or names a handle that is not there.
    Malformed,
    Unsupported,
    /// More files are open than may be.
    TooMany,
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Errno> for Refused {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

impl From<Malformed> for Refused {
    fn from(Malformed: Malformed) -> Self {
        Self::Malformed
    }
}

impl Refused {
    /// The code, and words for people.
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

/// The answer to request `id`: done, or why not.
pub(super) fn status(id: u32, outcome: Result<(), Refused>) -> Packet {
    let (code, message) = match outcome {
        Ok(()) => (0, "Success".to_owned()),
        Err(refused) => refused.status(),
    };
    Packet::answering(STATUS, id).u32(code).bytes(message.as_bytes()).bytes(b"")
}
