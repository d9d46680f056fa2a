use std::process::ExitCode;

use banger_api::{Image, ImageName, NameImage};
use banger_client::Client;

use crate::{commands::reference::reference, error::CommandError, operation::watch, ui::Ui};

/// Give an image one more name
///
/// The two are then images of their own, which can be deleted one without the other. They share one file: it takes no room.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger image tag debian-bookworm team/base:2026-11
  banger image tag team/base:2026-11 golden")]
pub(crate) struct Tag {
    /// Id, name, or the beginning of either
    #[arg(value_parser = reference())]
    image: String,
    /// The other name
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
