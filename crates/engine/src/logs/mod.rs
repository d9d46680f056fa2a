//! Logs: limited in size, and read while they are written.
//!
//! A log is a file and an older, rotated file. [`RotatingLog`] writes both. [`Times`](times::Times) beside them records
//! which bytes were written when. A VM's console and VMM output go through pipes to the VM's [`console_logger_main`], a
//! process that keeps running without the daemon. [`Reader`] reads a log in order across its two files, and continues
//! when more is written. [`send`] sends it to a client, whole or filtered by line.

mod changes;
mod console_logger;
mod lines;
mod reader;
mod rotating;
mod send;
mod times;

use std::path::{Path, PathBuf};

pub(crate) use changes::Changes;
pub(crate) use console_logger::confinement as console_logger_confinement;
pub use console_logger::{CONSOLE_MAX, console_logger_main};
pub(crate) use lines::{EntryFilter, LineFilter, VmFilter};
pub(crate) use reader::Reader;
pub use rotating::RotatingLog;
pub(crate) use send::{Log, send};

/// Returns the path of the older file of the log at `path`.
fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}
