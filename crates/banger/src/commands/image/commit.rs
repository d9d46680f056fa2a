use std::process::ExitCode;

use banger_api::{CommitVm, Image, ImageName};
use banger_client::Client;

use crate::{commands::reference::reference, error::CommandError, operation::watch, ui::Ui};

/// Make an image of what is on a stopped VM's disks
///
/// It has what the VM's root has, and prefers the same kernel. /root, which is a disk of its own, is as in the VM's image. Left
/// out is what tells one machine from another: its machine id, ssh's host keys, and the seed of its random numbers.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger vm stop box && banger image commit box golden
  banger image commit --with-home box golden:with-dotfiles")]
pub(crate) struct Commit {
    /// Id or name of the VM, or the beginning of either
    #[arg(value_parser = reference())]
    vm: String,
    /// Name for the image
    name: ImageName,
    /// Also what is in /root, with all the secrets that may be there
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
