//! `banger`: the command line, a thin layer. Each command has a file in `commands`, calls the daemon through
//! `banger_client` and passes the result to `ui`, the only module that prints.
//!
//! It is a library so that tests and fuzz targets can run command lines in their own process; see [`run`].

mod commands;
mod config;
mod consent;
mod credentials;
mod error;
mod file_sync;
#[doc(hidden)]
pub mod fuzzing;
mod hints;
#[cfg(test)]
mod manual;
mod operation;
mod raw_mode;
mod session;
mod signals;
mod ssh;
mod steps;
mod transfer;
mod ui;
mod workspace;

use std::{
    env,
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
};

use clap::FromArgMatches;

use crate::{commands::Cli, ui::Ui};

/// Runs this process's command line.
#[must_use]
pub fn main() -> ExitCode {
    let owner = handle_signals();
    if banger_durable::HAS_FAIL_POINTS && env::args_os().nth(1).is_some_and(|word| word == "fail-points") {
        // For tests, which have no use for an error.
        let _ = writeln!(io::stdout(), "{}", steps::fail_points().join("\n"));
        return ExitCode::SUCCESS;
    }
    clap_complete::CompleteEnv::with_factory(Cli::with_effective_defaults).complete();
    let runtime = owner.and_then(|()| tokio::runtime::Builder::new_current_thread().enable_all().build());
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return Ui::new(ui::now_ns(), false).report_failure(&error::CommandError::from(error)),
    };
    let code = runtime.block_on(run(env::args_os()));
    // A thread may be blocked reading standard input, possibly forever.
    runtime.shutdown_background();
    code
}

/// Handles this process's signals from now on, as [`main`] does: the phases of commands say what they do.
///
/// # Errors
/// Returns an error if no thread can be started for them.
pub fn handle_signals() -> io::Result<()> {
    signals::install()
}

/// Runs the command line `arguments`, the first of which is the program's name. Reports its errors, and returns its
/// exit status.
pub async fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let start_ns = ui::now_ns();
    let matches = Cli::with_effective_defaults().get_matches_from(arguments);
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let ui = Ui::new(start_ns, ui::is_json(&matches));
    match cli.command.run(&ui).await {
        Ok(code) => code,
        Err(error) => ui.report_failure(&error),
    }
}
