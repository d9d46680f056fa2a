use std::process::ExitCode;

use banger_api::{Vm, VmState};
use banger_client::Client;

use super::list;
use crate::{commands::several::delete_each, error::CommandError, ui::Ui};

/// Delete all VMs that are down, with their disks
///
/// It shows them first, and asks. Those that run, are paused, or are on their way up or down stay.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger vm prune --dry-run
  banger vm prune --force")]
pub(crate) struct Prune {
    /// Don't ask
    #[arg(short, long)]
    force: bool,
    /// Also what was done in repositories there
    #[arg(long)]
    discard: bool,
    /// Only show what would be deleted
    #[arg(short = 'n', long)]
    dry_run: bool,
}

impl Prune {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let mut vms = client.vms().await?;
        vms.retain(|vm| matches!(vm.state, VmState::Created | VmState::Stopped | VmState::Error));
        if vms.is_empty() {
            ui.note("there is nothing to prune");
            return Ok(ExitCode::SUCCESS);
        }
        if self.dry_run {
            ui.table(list::table(ui, &vms))?;
            return Ok(ExitCode::SUCCESS);
        }
        if !self.force && !confirmed(ui, &vms)? {
            ui.note("nothing was deleted");
            return Ok(ExitCode::FAILURE);
        }
        let ids: Vec<_> = vms.into_iter().map(|vm| vm.id.into()).collect();
        delete_each(&client, ui, &ids, false, self.discard).await
    }
}

fn confirmed(ui: &Ui, vms: &[Vm]) -> Result<bool, CommandError> {
    if !ui.can_ask() {
        return Err(CommandError::usage(
            "there is no terminal to ask on: use --force to delete, or --dry-run to look",
        ));
    }
    ui.note(list::table(ui, vms));
    let what = if vms.len() == 1 { "this VM with its disks" } else { "these VMs with their disks" };
    Ok(ui.ask(format_args!("Delete {what}?"))?)
}
