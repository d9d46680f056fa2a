//! Copying files between the host and a guest. A thread reads or writes the host's files; the agent does the same
//! with the guest's. A `banger-files` stream connects them, with the flow control and cancellation of an exec.

mod error;
mod exchange;
mod incoming;
mod lines;
mod outgoing;
mod pipe;
mod streams;

use std::{fs::File, path::PathBuf, time::Duration};

use banger_api::{ApiError, ErrorKind};
use banger_files::Source;
use banger_proto::{CopyDirection, CopyFiles};

pub use exchange::exchange;
pub use incoming::copy_out;
pub use outgoing::copy_in;
pub use pipe::{FromGuest, ToGuest};

/// Timeout for a guest without progress: its disk may be slow, and it sometimes writes back the data it holds in
/// memory.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// Timeout for the threads of a transfer that has ended early to remove partial files. A disk or a server of files may
/// hang.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A path in a guest.
#[derive(Debug, Clone)]
pub struct GuestPath {
    /// The VM, by id, name, or a prefix of either.
    pub vm: String,
    /// The path in the guest's file system; relative to the user's home directory.
    pub path: Vec<u8>,
    /// The user that reads or writes, by name or number; root if unset.
    pub user: Option<String>,
}

/// The source of a copy into a guest.
#[derive(Debug)]
pub enum Origin {
    /// A file, directory or link.
    Files(Box<Source>),
    /// All data that can be read from this file, copied as a file.
    Input(File),
}

/// The destination of a copy from a guest.
#[derive(Debug)]
pub enum Destination {
    /// A path, with the rules of `cp`.
    Files(PathBuf),
    /// This file, if the source is a file.
    Output(File),
}

/// Progress of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyEvent {
    /// Number of bytes transferred so far.
    Progress(u64),
    /// An object was skipped; the text is a sentence.
    Skipped(String),
}

impl GuestPath {
    fn request(&self, direction: CopyDirection, follow: bool) -> CopyFiles {
        CopyFiles { direction, path: self.path.clone(), follow, user: self.user.clone() }
    }
}

fn cancelled() -> ApiError {
    ApiError::new(ErrorKind::Cancelled, "the copy was cancelled")
}

fn idle_error() -> ApiError {
    let message =
        format!("the guest has neither sent nor received anything for {} s", IDLE_TIMEOUT.as_secs());
    ApiError::new(ErrorKind::Timeout, message)
}
