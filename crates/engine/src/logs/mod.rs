//! Logs: written so that none ever grows over its cap, and read while they are written.
//!
//! A log is a file and an older one of it. [`Rotating`] writes both; with [`Times`] beside them it can be told what was
//! written since when. A VM's console and its VMM's words come through pipes to a [`keeper_main`] of the VM's own, a
//! process that lives on without the daemon. [`Reader`] reads a log in order across its two files, and goes on where
//! it was when more has come; [`send`] gives it to whoever wants to read it, line by line where not all are wanted.

mod changes;
mod keeper;
mod lines;
mod reader;
mod rotating;
mod send;
mod times;

use std::path::{Path, PathBuf};

pub use keeper::{CONSOLE_MAX, keeper_main};
pub(crate) use lines::{About, Entries, LineFilter};
pub(crate) use reader::Reader;
pub use rotating::Rotating;
pub(crate) use send::{Log, send};

/// The file that is the older one of the log at `path`.
fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}
