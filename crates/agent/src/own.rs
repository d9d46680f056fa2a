//! Programs that are the agent itself, run as an exec for the host: whose files they may touch is for the kernel to say.

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

/// Bytes on their way at a time; a pipe holds as many.
pub(crate) const BUFFER: usize = 64 << 10;

/// The agent, told by the word `command` to carry out `request`.
pub(crate) fn exec(command: &str, request: &impl Serialize) -> serde_json::Result<Exec> {
    let argv = vec!["/proc/self/exe".to_owned(), command.to_owned(), serde_json::to_string(request)?];
    Ok(Exec { argv, ..Exec::default() })
}

/// Why such a program has failed.
#[derive(Debug)]
pub(crate) struct Failed {
    why: String,
    kind: Option<OwnFailure>,
}

impl Failed {
    /// With `why` as the last line that the host hears of it.
    pub(crate) fn because(why: impl Into<String>) -> Self {
        Self { why: why.into(), kind: None }
    }

    /// `error`, which came up while something was made, with what had been made by then.
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

    /// `error`, which came up while `doing` something.
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

/// Carries out `request`.
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

/// A host that hangs up breaks the stream too, and by that the work ends in order: what is half made is removed. The
/// hang-up itself is listened for so that it does not end the program before.
fn outlive_the_host() -> io::Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _in_it = runtime.enter();
    // It stays listened for when nobody asks whether it came.
    drop(signal(SignalKind::hangup())?);
    Ok(runtime)
}

/// Standard input without the buffer that is for lines.
pub(crate) fn stdin() -> io::Result<File> {
    whole_file(io::stdin())
}

/// Standard output, so.
pub(crate) fn stdout() -> io::Result<File> {
    whole_file(io::stdout())
}

fn whole_file(stream: impl AsFd) -> io::Result<File> {
    Ok(stream.as_fd().try_clone_to_owned()?.into())
}

/// A line for the host. A path has its line breaks as Rust writes them.
pub(crate) fn tell(text: impl Display) {
    let line = text.to_string().replace('\n', "\\n");
    // There is nowhere else to say it.
    let _ = writeln!(io::stderr(), "{line}");
}
