//! `banger`: the command line, a thin layer. Each command has a file in [`commands`], calls the daemon through
//! `banger_client` and passes the result to [`ui`], the only module that prints.

mod commands;
mod config;
mod consent;
mod credentials;
mod error;
mod file_sync;
mod forward;
mod hints;
#[cfg(test)]
mod manual;
mod operation;
mod session;
mod ssh;
mod transfer;
mod ui;
mod workspace;

use std::process::ExitCode;

use clap::FromArgMatches;

use crate::{commands::Cli, ui::Ui};

fn main() -> ExitCode {
    let start_ns = ui::now_ns();
    clap_complete::CompleteEnv::with_factory(Cli::with_effective_defaults).complete();
    let matches = Cli::with_effective_defaults().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let ui = Ui::new(start_ns, ui::is_json(&matches));
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return ui.report_failure(&error::CommandError::from(error)),
    };
    let result = runtime.block_on(cli.command.run(&ui));
    // A thread may be blocked reading standard input, possibly forever.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(error) => ui.report_failure(&error),
    }
}
