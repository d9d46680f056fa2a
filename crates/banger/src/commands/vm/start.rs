use std::process::ExitCode;

use banger_api::Vm;
use banger_client::Client;

use crate::{
    commands::{reference, several::each},
    error::CommandError,
    ui::Ui,
};

/// Start stopped VMs
#[derive(Debug, clap::Args)]
pub(crate) struct Start {
    /// Ids, names, or beginnings of either
    #[arg(required = true, value_name = "VM", value_parser = reference())]
    vms: Vec<String>,
}

impl Start {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        each(&client, ui, &self.vms, async |vm| {
            let progress = ui.progress();
            let mut events = client.start_vm(vm.id.as_str()).await?;
            events.result::<Vm>(|event| progress.show(ui, event)).await.map(drop)
        })
        .await
    }
}
