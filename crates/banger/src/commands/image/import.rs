use std::{
    fs::File,
    io::{self, Seek},
    os::fd::AsFd,
    path::PathBuf,
    process::ExitCode,
};

use banger_api::{ApiError, ErrorKind, Image, ImageName};
use banger_client::Client;

use crate::{error::CommandError, operation::watch, ui::Ui};

/// Create an image from a tar of a root file system
///
/// The tar may be compressed with gzip, zstd or xz. Owners, modes, links, devices and extended attributes are kept.
/// Nothing is extracted onto the host.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger image import alpine alpine-minirootfs.tar.gz
  docker export container | banger image import mine -")]
pub(crate) struct Import {
    /// Name for the image
    name: ImageName,
    /// Tar file, or - for standard input
    tar: PathBuf,
}

impl Import {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let cannot = |error: io::Error| {
            ApiError::new(ErrorKind::Io, format!("cannot read {}: {error}", self.tar.display()))
        };
        let tar = if self.tar.as_os_str() == "-" {
            File::from(io::stdin().as_fd().try_clone_to_owned().map_err(cannot)?)
        } else {
            File::open(&self.tar).map_err(cannot)?
        };
        let meta = tar.metadata().map_err(cannot)?;
        if meta.is_dir() {
            return Err(CommandError::usage(format!("{} is a directory, not a tar", self.tar.display())));
        }
        let mut events = if meta.is_file() && position(&tar)? == 0 {
            client.import_image_file(&self.name, tar).await?
        } else {
            client.import_image(&self.name, tokio::fs::File::from_std(tar)).await?
        };
        let (image, _) = watch::<Image>(&client, &mut events, ui).await?;
        ui.line(&image.name)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Returns the read position: a part of standard input may already have been read.
fn position(mut file: &File) -> io::Result<u64> {
    file.stream_position()
}
