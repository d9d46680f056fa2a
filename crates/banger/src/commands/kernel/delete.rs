use std::process::ExitCode;

use banger_client::Client;

use crate::{commands::reference::reference, error::CommandError, ui::Ui};

/// Delete a kernel that no VM uses
#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    /// Id, name, or unique prefix of either
    #[arg(value_parser = reference())]
    kernel: String,
}

impl Delete {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        Client::new()?.delete_kernel(&self.kernel).await?;
        ui.line(&self.kernel)?;
        Ok(ExitCode::SUCCESS)
    }
}
