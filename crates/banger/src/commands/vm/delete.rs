use std::process::ExitCode;

use banger_client::Client;

use crate::{
    commands::{reference, several::each},
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
        let client = Client::new()?;
        each(&client, ui, &self.vms, async |vm| {
            client.delete_vm(vm.id.as_str(), self.force).await?.result::<()>(|_| {}).await.map(drop)
        })
        .await
    }
}
