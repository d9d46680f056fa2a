use std::process::ExitCode;

use banger_client::Client;

use crate::{
    commands::{reference::reference, several::delete_each},
    error::CommandError,
    ui::Ui,
};

/// Delete VMs and their disks
///
/// Work in a repository that banger sent to the VM, and that exists nowhere else, is first saved on the host as
/// refs/banger/VM/...; a stopped VM is started for that.
#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    /// Delete running VMs too, and interrupt a start or stop
    #[arg(short, long)]
    force: bool,
    /// Delete unsaved work in the VM's repositories too
    #[arg(long)]
    discard: bool,
    /// Ids, names, or unique prefixes of either
    #[arg(required = true, value_name = "VM", value_parser = reference())]
    vms: Vec<String>,
}

impl Delete {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        delete_each(&Client::new()?, ui, &self.vms, self.force, self.discard).await
    }
}
