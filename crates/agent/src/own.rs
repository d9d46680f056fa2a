//! Subcommands of the agent, run as execs for the host, so that the kernel enforces file permissions.

use std::{
    fmt::Display,
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    process::ExitCode,
};

use banger_files::UnpackError;
use banger_proto::{Exec, OwnFailure};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

/// Buffer size in bytes; the capacity of a pipe.
pub(crate) const BUFFER: usize = 64 << 10;

/// Returns the exec of the agent's subcommand `command` with `request` as its argument.
pub(crate) fn exec(command: &str, request: &impl Serialize) -> serde_json::Result<Exec> {
    let argv = vec!["/proc/self/exe".to_owned(), command.to_owned(), serde_json::to_string(request)?];
    Ok(Exec { argv, ..Exec::default() })
}

/// The failure of a subcommand.
#[derive(Debug)]
pub(crate) struct Failed {
    why: String,
    kind: Option<OwnFailure>,
}

impl Failed {
    /// Returns a failure with `why` as its last line to the host.
    pub(crate) fn because(why: impl Into<String>) -> Self {
        Self { why: why.into(), kind: None }
    }

    /// Returns the failure for `error` while unpacking; `so_far` lists what exists by then.
    pub(crate) fn unpacking(error: &UnpackError, so_far: &str) -> Self {
        let kind = match error {
            UnpackError::Occupied(_) => Some(OwnFailure::Exists),
            UnpackError::Busy(_) => Some(OwnFailure::Busy),
            UnpackError::NoFolder(_) => Some(OwnFailure::NotFound),
            UnpackError::Write { source, .. } => kind(source),
            _ => None,
        };
        Self { why: format!("{error}{so_far}"), kind }
    }

    /// Returns the failure for `error` while `doing` something.
    pub(crate) fn doing(doing: impl Display, error: &io::Error) -> Self {
        Self { why: format!("{doing}: {error}"), kind: kind(error) }
    }
}

impl From<serde_json::Error> for Failed {
    fn from(error: serde_json::Error) -> Self {
        Self::because(error.to_string())
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::because(error.to_string())
    }
}

fn kind(error: &io::Error) -> Option<OwnFailure> {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some(OwnFailure::NoSpace),
        io::ErrorKind::NotFound => Some(OwnFailure::NotFound),
        _ => None,
    }
}

/// Runs the subcommand `work` with `request`, and returns its exit code.
pub(crate) fn run(work: impl FnOnce(&str) -> Result<(), Failed>, request: &str) -> ExitCode {
    let done = outlive_the_host().map_err(Failed::from);
    match done.and_then(|_runtime| work(request)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed { why, kind }) => {
            tell(why);
            kind.map_or(ExitCode::FAILURE, |kind| ExitCode::from(kind as u8))
        }
    }
}

/// Catches SIGHUP, so that a disconnect of the host does not kill the program. The disconnect also breaks the stream:
/// the work then ends in order and removes partial results.
fn outlive_the_host() -> io::Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _in_it = runtime.enter();
    // The handler stays installed after the stream is dropped.
    drop(signal(SignalKind::hangup())?);
    Ok(runtime)
}

/// Returns standard input as a file, without the standard library's buffer.
pub(crate) fn stdin() -> io::Result<File> {
    whole_file(io::stdin())
}

/// Returns standard output as a file, without the standard library's line buffer.
pub(crate) fn stdout() -> io::Result<File> {
    whole_file(io::stdout())
}

fn whole_file(stream: impl AsFd) -> io::Result<File> {
    Ok(stream.as_fd().try_clone_to_owned()?.into())
}

/// Writes a line to the host. Line breaks in it are escaped as in Rust.
pub(crate) fn tell(text: impl Display) {
    let line = text.to_string().replace('\n', "\\n");
    // There is no other place to report an error.
    let _ = writeln!(io::stderr(), "{line}");
}
