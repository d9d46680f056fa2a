//! Copying files between the host and a guest. A thread reads or writes the host's files; the agent does the same with
//! the guest's; between them is a stream of `banger-files`, with the windows and the hang-up of an exec.

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

/// How long a guest may leave the host waiting: its disk may be slow, and it writes out what it holds in memory at times.
const SILENCE: Duration = Duration::from_secs(120);

/// A path in a guest.
#[derive(Debug, Clone)]
pub struct GuestPath {
    /// The VM, by id, name, or the beginning of either.
    pub vm: String,
    /// The path, as the guest's file system has it; a relative one is the user's home's.
    pub path: Vec<u8>,
    /// Who reads or writes, by name or number; root when left out.
    pub user: Option<String>,
}

/// What is copied into a guest.
#[derive(Debug)]
pub enum Origin {
    /// A file, folder or link.
    Files(Box<Source>),
    /// All that can be read here, as a file.
    Input(File),
}

/// Where what comes from a guest goes.
#[derive(Debug)]
pub enum Destination {
    /// A path, as `cp` would take it.
    Files(PathBuf),
    /// Here, if it is a file.
    Output(File),
}

/// What there is to tell while files are copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyEvent {
    /// So many bytes are through by now.
    Through(u64),
    /// Something was passed over: a sentence.
    PassedOver(String),
}

impl GuestPath {
    fn request(&self, direction: CopyDirection, follow: bool) -> CopyFiles {
        CopyFiles { direction, path: self.path.clone(), follow, user: self.user.clone() }
    }
}

fn stopped() -> ApiError {
    ApiError::new(ErrorKind::Cancelled, "the copying was stopped")
}

fn silent() -> ApiError {
    let message = format!("the guest has neither sent nor taken anything for {} s", SILENCE.as_secs());
    ApiError::new(ErrorKind::Timeout, message)
}
