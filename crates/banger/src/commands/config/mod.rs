//! `banger config …`

mod show;

use std::process::ExitCode;

use clap::Subcommand;

pub(super) use show::with_variables;

use crate::{error::CommandError, ui::Ui};

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    Show(show::Show),
}

impl ConfigCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        match self {
            Self::Show(command) => command.run(ui),
        }
    }
}
