use std::process::ExitCode;

use banger_client::Client;

use crate::{error::CommandError, ui::Ui};

/// Print the versions of banger and of the running daemon
#[derive(Debug, clap::Args)]
pub(crate) struct Version {}

impl Version {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        ui.line(format_args!("banger {}", env!("CARGO_PKG_VERSION")))?;
        match Client::new()?.daemon_status().await? {
            Some(status) => ui.line(format_args!("bangerd {}", status.version))?,
            None => ui.line("bangerd is not running")?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
