use std::process::ExitCode;

use banger_api::{Vm, VmState};
use banger_client::Client;

use crate::{
    error::CommandError,
    ui::{Format, Table, Ui},
};

/// List VMs
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Include stopped and failed VMs
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    format: Format,
}

impl List {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let mut vms = Client::new()?.vms().await?;
        vms.retain(|vm| {
            self.all
                || matches!(
                    vm.state,
                    VmState::Starting | VmState::Running | VmState::Paused | VmState::Stopping
                )
        });
        ui.list(&self.format, &vms, |vm| vm.id.to_string(), |vms| table(ui, vms))?;
        Ok(ExitCode::SUCCESS)
    }
}

pub(super) fn table(ui: &Ui, vms: &[Vm]) -> Table {
    let mut table = Table::new(["NAME", "STATE", "IMAGE", "VCPU", "MEMORY", "VMM", "CREATED", "ID"]);
    for vm in vms {
        table.row([
            vm.name.to_string(),
            vm.state.to_string(),
            vm.image.clone(),
            vm.vcpu.to_string(),
            vm.memory.to_string(),
            vm.vmm.map(|vmm| vmm.to_string()).unwrap_or_default(),
            ui.ago(vm.created_at),
            vm.id.to_string(),
        ]);
    }
    table
}
