//! `banger kernel …`

mod delete;
mod import;
mod kernel_dir;
mod list;
mod pull;
mod show;

pub(crate) use import::send_files;

use std::process::ExitCode;

use clap::Subcommand;

use crate::{error::CommandError, ui::Ui};

#[derive(Debug, Subcommand)]
pub(crate) enum KernelCommand {
    #[command(visible_alias = "ls")]
    List(list::List),
    Show(show::Show),
    Import(import::Import),
    Pull(pull::Pull),
    #[command(visible_alias = "rm")]
    Delete(delete::Delete),
}

impl KernelCommand {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        match self {
            Self::List(command) => command.run(ui).await,
            Self::Show(command) => command.run(ui).await,
            Self::Import(command) => command.run(ui).await,
            Self::Pull(command) => command.run(ui).await,
            Self::Delete(command) => command.run(ui).await,
        }
    }
}
