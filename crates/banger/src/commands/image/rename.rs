use std::process::ExitCode;

use banger_api::ImageName;
use banger_client::Client;

use crate::{commands::reference::reference, error::CommandError, ui::Ui};

/// Rename an image
///
/// VMs created from it are not affected.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger image rename golden golden-old")]
pub(crate) struct Rename {
    /// Id, name, or unique prefix of either
    #[arg(value_parser = reference())]
    image: String,
    /// New name
    name: ImageName,
}

impl Rename {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        ui.line(Client::new()?.rename_image(&self.image, &self.name).await?.name)?;
        Ok(ExitCode::SUCCESS)
    }
}
