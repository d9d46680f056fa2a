use std::process::ExitCode;

use banger_client::Client;

use crate::{commands::reference, error::CommandError, ui::Ui};

/// Delete an image that no VM uses
#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    /// Id, name, or the beginning of either
    #[arg(value_parser = reference())]
    image: String,
}

impl Delete {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        Client::new()?.delete_image(&self.image).await?;
        ui.line(&self.image)?;
        Ok(ExitCode::SUCCESS)
    }
}
