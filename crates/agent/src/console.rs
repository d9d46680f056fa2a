//! What the agent says on the guest's console.

use std::{io::Write, process::ExitCode};

/// Says why this process cannot go on, and returns its status.
pub(crate) fn fail(message: &str) -> ExitCode {
    say(message);
    ExitCode::FAILURE
}

/// One line on the console, which `banger vm logs` shows.
pub(crate) fn say(message: &str) {
    // There is nowhere else to say it.
    let _ = writeln!(std::io::stderr(), "banger-agent: {message}");
}
