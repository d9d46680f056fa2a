use std::process::ExitCode;

use banger_client::Client;

use crate::{
    commands::{reference, several::delete_each},
    error::CommandError,
    ui::Ui,
};

/// Delete VMs with their disks
#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    /// Also while they run, or are being started or stopped, which is cut short
    #[arg(short, long)]
    force: bool,
    /// Ids, names, or beginnings of either
    #[arg(required = true, value_name = "VM", value_parser = reference())]
    vms: Vec<String>,
}

impl Delete {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        delete_each(&Client::new()?, ui, &self.vms, self.force).await
    }
}
