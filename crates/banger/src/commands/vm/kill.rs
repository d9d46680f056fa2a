use std::process::ExitCode;

use banger_api::{KillSignal, KillVm};
use banger_client::Client;

use crate::{
    commands::{reference::reference, several::watch_each},
    error::CommandError,
    ui::Ui,
};

/// Kill VMs without an orderly shutdown
///
/// Data that a guest has not synced is lost. The VM can be started again.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger vm kill box
  banger vm kill --signal TERM box")]
pub(crate) struct Kill {
    /// Signal for the VMM: KILL, TERM, INT, HUP, QUIT or ABRT
    #[arg(short, long, default_value = "KILL")]
    signal: KillSignal,
    /// Ids, names, or unique prefixes of either
    #[arg(required = true, value_name = "VM", value_parser = reference())]
    vms: Vec<String>,
}

impl Kill {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let kill = KillVm { signal: self.signal };
        watch_each(&client, ui, &self.vms, async |vm| client.kill_vm(vm.id.as_str(), kill).await).await
    }
}
