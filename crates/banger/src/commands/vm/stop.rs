use std::process::ExitCode;

use banger_api::{Period, StopVm};
use banger_client::Client;

use crate::{
    commands::{reference::reference, several::stop_each},
    error::CommandError,
    ui::Ui,
};

/// Stop VMs: orderly within 10 s, else by force
///
/// Files that their programs have written are kept. The VMs can be started again.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger vm stop box
  banger vm stop --timeout 1m box db")]
pub(crate) struct Stop {
    /// Timeout for an orderly shutdown, after which the VM is stopped by force
    #[arg(short, long, value_name = "PERIOD")]
    timeout: Option<Period>,
    /// Ids, names, or unique prefixes of either
    #[arg(required = true, value_name = "VM", value_parser = reference())]
    vms: Vec<String>,
}

impl Stop {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let options = StopVm { timeout_s: self.timeout.map(|timeout| timeout.as_secs()) };
        stop_each(&client, ui, &self.vms, async |vm| client.stop_vm(vm.id.as_str(), options).await).await
    }
}
