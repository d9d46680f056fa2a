use std::process::ExitCode;

use banger_api::{Image, ImageName, NameImage};
use banger_client::Client;

use crate::{commands::reference::reference, error::CommandError, operation::watch, ui::Ui};

/// Add a second name to an image
///
/// The names are then two images, which can be deleted independently. They share one file, so the second takes no
/// disk space.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger image tag debian-bookworm team/base:2026-11
  banger image tag team/base:2026-11 golden")]
pub(crate) struct Tag {
    /// Id, name, or unique prefix of either
    #[arg(value_parser = reference())]
    image: String,
    /// Second name
    name: ImageName,
}

impl Tag {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let tag = NameImage { name: self.name, replace_built: false };
        let mut events = client.tag_image(&self.image, &tag).await?;
        let (image, _) = watch::<Image>(&client, &mut events, ui).await?;
        ui.line(&image.name)?;
        Ok(ExitCode::SUCCESS)
    }
}
