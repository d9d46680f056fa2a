//! Messages of the agent on the guest's console.

use std::{io::Write, process::ExitCode};

/// Prints why this process cannot continue, and returns its exit code.
pub(crate) fn fail(message: &str) -> ExitCode {
    log(message);
    ExitCode::FAILURE
}

/// Prints one line on the console, which `banger vm logs` shows.
pub(crate) fn log(message: &str) {
    // There is no other place to report an error.
    let _ = writeln!(std::io::stderr(), "banger-agent: {message}");
}
