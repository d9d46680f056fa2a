use std::process::ExitCode;

use banger_api::ImageName;
use banger_client::Client;

use crate::{commands::reference::reference, error::CommandError, ui::Ui};

/// Give an image another name
///
/// VMs made of it are none the wiser.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger image rename golden golden-old")]
pub(crate) struct Rename {
    /// Id, name, or the beginning of either
    #[arg(value_parser = reference())]
    image: String,
    /// The name that it gets
    name: ImageName,
}

impl Rename {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        ui.line(Client::new()?.rename_image(&self.image, &self.name).await?.name)?;
        Ok(ExitCode::SUCCESS)
    }
}
