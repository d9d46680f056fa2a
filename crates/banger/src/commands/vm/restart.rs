use std::process::ExitCode;

use banger_api::{Period, RestartVm};
use banger_client::Client;

use crate::{
    commands::{reference::reference, several::restart_each},
    config,
    error::CommandError,
    ssh::personal,
    ui::Ui,
};

/// Stop VMs and start them again
///
/// A stopped VM is only started.
#[derive(Debug, clap::Args)]
pub(crate) struct Restart {
    /// Timeout for an orderly shutdown, after which the VM is stopped by force
    #[arg(short, long, value_name = "PERIOD")]
    timeout: Option<Period>,
    /// Ids, names, or unique prefixes of either
    #[arg(required = true, value_name = "VM", value_parser = reference())]
    vms: Vec<String>,
}

impl Restart {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let options = RestartVm {
            timeout_s: self.timeout.map(|timeout| timeout.as_secs()),
            personal: personal::collect(&config::load()?, None, client.dirs(), ui)?,
        };
        restart_each(&client, ui, &self.vms, async |vm| client.restart_vm(vm.id.as_str(), &options).await)
            .await
    }
}
