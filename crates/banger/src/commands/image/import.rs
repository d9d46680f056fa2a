use std::{path::PathBuf, process::ExitCode};

use banger_api::{ApiError, ErrorKind, Image, Name};
use banger_client::Client;

use crate::{commands::watch::watch, error::CommandError, ui::Ui};

/// Make an image of a root file system's tar
///
/// The tar may be packed with gzip, zstd or xz. Owners, modes, links, devices and extended attributes are kept; nothing
/// is unpacked onto this machine.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  banger image import alpine alpine-minirootfs.tar.gz
  docker export container | banger image import mine -")]
pub(crate) struct Import {
    /// Name for the image
    name: Name,
    /// The tar, or - for standard input
    tar: PathBuf,
}

impl Import {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let mut events = if self.tar.as_os_str() == "-" {
            client.import_image(&self.name, tokio::io::stdin()).await?
        } else {
            let file = tokio::fs::File::open(&self.tar).await.map_err(|error| {
                ApiError::new(ErrorKind::Io, format!("cannot open {}: {error}", self.tar.display()))
            })?;
            client.import_image(&self.name, file).await?
        };
        let (image, _) = watch::<Image>(&client, &mut events, ui).await?;
        ui.line(&image.name)?;
        Ok(ExitCode::SUCCESS)
    }
}
