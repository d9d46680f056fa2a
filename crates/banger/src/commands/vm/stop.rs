use std::process::ExitCode;

use banger_api::Vm;
use banger_client::Client;

use crate::{
    commands::{reference, several::each},
    error::CommandError,
    ui::Ui,
};

/// Stop VMs: in order within 10 s, else by force
///
/// Their disks stay, and they can be started again.
#[derive(Debug, clap::Args)]
pub(crate) struct Stop {
    /// Ids, names, or beginnings of either
    #[arg(required = true, value_name = "VM", value_parser = reference())]
    vms: Vec<String>,
}

impl Stop {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        each(&client, ui, &self.vms, async |vm| {
            let progress = ui.progress();
            let mut events = client.stop_vm(vm.id.as_str()).await?;
            events.result::<Vm>(|event| progress.show(ui, event)).await.map(drop)
        })
        .await
    }
}
