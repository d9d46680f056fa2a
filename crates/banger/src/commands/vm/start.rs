use std::process::ExitCode;

use banger_api::StartVm;
use banger_client::Client;

use crate::{
    commands::{reference::reference, several::start_each},
    config,
    error::CommandError,
    ssh::personal,
    ui::Ui,
};

/// Start stopped VMs
#[derive(Debug, clap::Args)]
pub(crate) struct Start {
    /// Ids, names, or unique prefixes of either
    #[arg(required = true, value_name = "VM", value_parser = reference())]
    vms: Vec<String>,
}

impl Start {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let options = StartVm { personal: personal::collect(&config::load()?, None, client.dirs(), ui)? };
        start_each(&client, ui, &self.vms, async |vm| client.start_vm(vm.id.as_str(), &options).await).await
    }
}
