//! `banger daemon …`

mod logs;
mod restart;
mod status;
mod stop;

use std::process::ExitCode;

use clap::Subcommand;

use crate::{error::CommandError, ui::Ui};

#[derive(Debug, Subcommand)]
pub(crate) enum DaemonCommand {
    Status(status::Status),
    Stop(stop::Stop),
    Restart(restart::Restart),
    Logs(logs::Logs),
}

impl DaemonCommand {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        match self {
            Self::Status(command) => command.run(ui).await,
            Self::Stop(command) => command.run(ui).await,
            Self::Restart(command) => command.run(ui).await,
            Self::Logs(command) => command.run(ui).await,
        }
    }
}
