//! `banger vm workspace …`

mod export;
mod prepare;
pub(crate) mod pull;
mod push;
pub(crate) mod selection;

use std::process::ExitCode;

use clap::Subcommand;

use crate::{error::CommandError, ui::Ui};

#[derive(Debug, Subcommand)]
pub(crate) enum WorkspaceCommand {
    Prepare(prepare::Prepare),
    Export(export::Export),
    Pull(pull::Pull),
    Push(push::Push),
}

impl WorkspaceCommand {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        match self {
            Self::Prepare(command) => command.run(ui).await,
            Self::Export(command) => command.run(ui).await,
            Self::Pull(command) => command.run(ui).await,
            Self::Push(command) => command.run(ui).await,
        }
    }
}
