//! Subcommands of the agent, run as execs for the host, so that the kernel enforces file permissions.

use std::{
    fmt::Display,
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    process::ExitCode,
};

use banger_files::UnpackError;
use banger_proto::{Exec, SubcommandFailure};
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
pub(crate) struct SubcommandError {
    message: String,
    kind: Option<SubcommandFailure>,
}

impl SubcommandError {
    /// Returns a failure with `message` as its last line to the host.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), kind: None }
    }

    /// Returns the failure for `error` while unpacking; `so_far` lists what exists by then.
    pub(crate) fn from_unpack(error: &UnpackError, so_far: &str) -> Self {
        let kind = match error {
            UnpackError::Occupied(_) => Some(SubcommandFailure::Exists),
            UnpackError::Busy(_) => Some(SubcommandFailure::Busy),
            UnpackError::NoDirectory(_) => Some(SubcommandFailure::NotFound),
            UnpackError::Write { source, .. } => kind(source),
            _ => None,
        };
        Self { message: format!("{error}{so_far}"), kind }
    }

    /// Returns the failure for `error`; `action` is its message before the error.
    pub(crate) fn io(action: impl Display, error: &io::Error) -> Self {
        Self { message: format!("{action}: {error}"), kind: kind(error) }
    }
}

impl From<serde_json::Error> for SubcommandError {
    fn from(error: serde_json::Error) -> Self {
        Self::new(error.to_string())
    }
}

impl From<io::Error> for SubcommandError {
    fn from(error: io::Error) -> Self {
        Self::new(error.to_string())
    }
}

fn kind(error: &io::Error) -> Option<SubcommandFailure> {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some(SubcommandFailure::NoSpace),
        io::ErrorKind::NotFound => Some(SubcommandFailure::NotFound),
        _ => None,
    }
}

/// Runs the subcommand `work` with `request`, and returns its exit code.
pub(crate) fn run(work: impl FnOnce(&str) -> Result<(), SubcommandError>, request: &str) -> ExitCode {
    let runtime = catch_sighup().map_err(SubcommandError::from);
    match runtime.and_then(|_runtime| work(request)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(SubcommandError { message, kind }) => {
            report(message);
            kind.map_or(ExitCode::FAILURE, |kind| ExitCode::from(kind as u8))
        }
    }
}

/// Catches SIGHUP, so that a disconnect of the host does not kill the program. The disconnect also breaks the stream:
/// the work then ends in order and removes partial results.
fn catch_sighup() -> io::Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _guard = runtime.enter();
    // The handler stays installed after the stream is dropped.
    drop(signal(SignalKind::hangup())?);
    Ok(runtime)
}

/// Returns standard input as a file, without the standard library's buffer.
pub(crate) fn stdin() -> io::Result<File> {
    unbuffered(io::stdin())
}

/// Returns standard output as a file, without the standard library's line buffer.
pub(crate) fn stdout() -> io::Result<File> {
    unbuffered(io::stdout())
}

fn unbuffered(stream: impl AsFd) -> io::Result<File> {
    Ok(stream.as_fd().try_clone_to_owned()?.into())
}

/// Writes a line to the host. Line breaks in it are escaped as in Rust.
pub(crate) fn report(text: impl Display) {
    let line = text.to_string().replace('\n', "\\n");
    // There is no other place to report an error.
    let _ = writeln!(io::stderr(), "{line}");
}
