use std::process::ExitCode;

use banger_api::{Image, ImageName, PullImage};
use banger_client::Client;

use crate::{commands::watch::watch, error::CommandError, ui::Ui};

/// Get an image from the catalog: debian-bookworm
#[derive(Debug, clap::Args)]
pub(crate) struct Pull {
    /// Its name in the catalog
    name: ImageName,
}

impl Pull {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let mut events =
            client.pull_image(&PullImage { name: self.name, size: None, credentials: Vec::new() }).await?;
        let (image, _) = watch::<Image>(&client, &mut events, ui).await?;
        ui.line(&image.name)?;
        Ok(ExitCode::SUCCESS)
    }
}
