use std::process::ExitCode;

use banger_api::{Vm, VmState};
use banger_client::Client;

use super::list;
use crate::{commands::several::delete_each, error::CommandError, ui::Ui};

/// Delete all VMs that are not running, with their disks
///
/// The command lists the VMs and asks for confirmation. VMs that are running, paused, starting or stopping are kept.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger vm prune --dry-run
  banger vm prune --force")]
pub(crate) struct Prune {
    /// Do not ask for confirmation
    #[arg(short, long)]
    force: bool,
    /// Delete unsaved work in the VMs' repositories too
    #[arg(long)]
    discard: bool,
    /// Show what would be deleted, and delete nothing
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
            ui.table(&list::table(ui, &vms))?;
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
            "cannot ask for confirmation without a terminal: use --force or --dry-run",
        ));
    }
    ui.notes(list::table(ui, vms));
    let targets = if vms.len() == 1 { "this VM with its disks" } else { "these VMs with their disks" };
    Ok(ui.ask(format_args!("Delete {targets}?"))?)
}
