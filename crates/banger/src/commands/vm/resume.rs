use std::process::ExitCode;

use banger_client::Client;

use crate::{
    commands::{reference::reference, several::watch_each},
    error::CommandError,
    ui::Ui,
};

/// Resume paused VMs
#[derive(Debug, clap::Args)]
pub(crate) struct Resume {
    /// Ids, names, or unique prefixes of either
    #[arg(required = true, value_name = "VM", value_parser = reference())]
    vms: Vec<String>,
}

impl Resume {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        watch_each(&client, ui, &self.vms, async |vm| client.resume_vm(vm.id.as_str()).await).await
    }
}
