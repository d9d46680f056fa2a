use std::process::ExitCode;

use banger_api::{CommitVm, Image, ImageName};
use banger_client::Client;

use crate::{commands::reference::reference, error::CommandError, operation::watch, ui::Ui};

/// Create an image from a stopped VM's disks
///
/// The image has the VM's root file system and prefers the same kernel. /root is a separate disk, and stays as in the
/// VM's image. Data that identifies a machine is left out: its machine id, ssh host keys and random seed.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger vm stop box && banger image commit box golden
  banger image commit --with-home box golden:with-dotfiles")]
pub(crate) struct Commit {
    /// Id or name of the VM, or unique prefix of either
    #[arg(value_parser = reference())]
    vm: String,
    /// Name for the image
    name: ImageName,
    /// Include /root, with all secrets in it
    #[arg(long)]
    with_home: bool,
}

impl Commit {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let commit = CommitVm { name: self.name, with_home: self.with_home, build_key: None };
        let mut events = client.commit_vm(&self.vm, &commit).await?;
        let (image, _) = watch::<Image>(&client, &mut events, ui).await?;
        ui.line(&image.name)?;
        Ok(ExitCode::SUCCESS)
    }
}
