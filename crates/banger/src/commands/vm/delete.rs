use std::process::ExitCode;

use banger_client::Client;

use crate::{
    commands::{reference::reference, several::delete_each},
    error::CommandError,
    ui::Ui,
};

/// Delete VMs with their disks
///
/// What was done in a repository that was sent there, and is nowhere else, is brought here first, as refs/banger/VM/...; a VM
/// that is down is started for that.
#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    /// Also while they run, or are being started or stopped, which is cut short
    #[arg(short, long)]
    force: bool,
    /// Also what was done in repositories there
    #[arg(long)]
    discard: bool,
    /// Ids, names, or beginnings of either
    #[arg(required = true, value_name = "VM", value_parser = reference())]
    vms: Vec<String>,
}

impl Delete {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        delete_each(&Client::new()?, ui, &self.vms, self.force, self.discard).await
    }
}
