use std::process::ExitCode;

use banger_api::Image;
use banger_client::Client;

use crate::{commands::reference::reference, error::CommandError, operation::watch, ui::Ui};

/// Copy the file of a registered image into banger's own store
///
/// The original file stays unchanged and is no longer needed.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger image promote mine")]
pub(crate) struct Promote {
    /// Id, name, or unique prefix of either
    #[arg(value_parser = reference())]
    image: String,
}

impl Promote {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let mut events = client.promote_image(&self.image).await?;
        let (image, _) = watch::<Image>(&client, &mut events, ui).await?;
        ui.line(&image.name)?;
        Ok(ExitCode::SUCCESS)
    }
}
