use std::process::ExitCode;

use banger_api::{Period, StopVm};
use banger_client::Client;

use crate::{
    commands::{reference::reference, several::follow_each},
    error::CommandError,
    ui::Ui,
};

/// Stop VMs: in order within 10 s, else by force
///
/// What their programs have written is kept, and they can be started again.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger vm stop box
  banger vm stop --timeout 1m box db")]
pub(crate) struct Stop {
    /// How long an orderly power-off may take before it is ended by force
    #[arg(short, long, value_name = "PERIOD")]
    timeout: Option<Period>,
    /// Ids, names, or beginnings of either
    #[arg(required = true, value_name = "VM", value_parser = reference())]
    vms: Vec<String>,
}

impl Stop {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let options = StopVm { timeout_s: self.timeout.map(|timeout| timeout.as_secs()) };
        follow_each(&client, ui, &self.vms, async |vm| client.stop_vm(vm.id.as_str(), options).await).await
    }
}
