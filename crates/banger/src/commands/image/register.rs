use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use banger_api::{Image, ImageName, Kernel, Name, RegisterImage};
use banger_client::Client;

use crate::{
    commands::kernel::send_files,
    error::{CommandError, unreadable},
    operation::watch,
    ui::Ui,
};

/// Use an ext4 root file system as an image, in place
///
/// VMs only read the file; banger never writes or deletes it. If the file has changed or is missing, the VMs do not
/// start. `image promote` copies it into banger's own store.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger image register mine rootfs.ext4 --kernel debian-cloud
  banger image register mine rootfs.ext4 --kernel ./vmlinux")]
pub(crate) struct Register {
    /// Name for the image
    name: ImageName,
    /// Ext4 file
    #[arg(value_name = "FILE")]
    rootfs: PathBuf,
    /// Preferred kernel: a name from `kernel list`, or the path (with a /) of a vmlinuz or vmlinux to import
    #[arg(long, value_name = "KERNEL")]
    kernel: Option<String>,
}

impl Register {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let path = fs::canonicalize(&self.rootfs).map_err(|error| unreadable(&self.rootfs, &error))?;
        let kernel = match self.kernel {
            Some(file) if file.contains('/') => {
                Some(import(&client, &self.name, Path::new(&file), ui).await?)
            }
            other => other,
        };
        let mut events = client.register_image(&RegisterImage { name: self.name, path, kernel }).await?;
        let (image, _) = watch::<Image>(&client, &mut events, ui).await?;
        ui.line(&image.name)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Imports the file as a kernel with the image's name; returns that name.
async fn import(client: &Client, image: &ImageName, file: &Path, ui: &Ui) -> Result<String, CommandError> {
    let name: Name = image.as_str().parse().map_err(|error| {
        CommandError::usage(format!(
            "the image's name is not valid for a kernel ({error}): import it with `banger kernel import`"
        ))
    })?;
    let mut events = send_files(client, &name, file, None).await?;
    Ok(watch::<Kernel>(client, &mut events, ui).await?.0.name.to_string())
}
