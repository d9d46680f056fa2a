use std::{io, io::IsTerminal, process::ExitCode, time::Duration};

use banger_api::{DiskStats, ErrorKind, Id, Size, VmStats};
use banger_client::Client;

use crate::{
    commands::{reference::reference, several::gather},
    error::CommandError,
    ui::{Format, LiveTable, Table, Ui},
};

/// Interval between updates of the table.
const INTERVAL: Duration = Duration::from_secs(1);

/// Show the CPU, memory, disk and network usage of VMs
///
/// On a terminal, the table is updated until Ctrl-C. CPU is in percent of one host CPU, over the last seconds. Memory
/// is the host memory that the VM's processes hold. Disks show the space that their files occupy, of their apparent
/// size. All other values are reported by the guest.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger vm stats                  all running VMs
  banger vm stats --no-stream box  one VM, once
  banger vm stats -o json          JSON, once")]
pub(crate) struct Stats {
    /// Ids, names, or unique prefixes of either [default: all running VMs]
    #[arg(value_name = "VM", value_parser = reference())]
    vms: Vec<String>,
    /// Print the table once, even on a terminal
    #[arg(long)]
    no_stream: bool,
    #[command(flatten)]
    format: Format,
}

impl Stats {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let mut failed = false;
        let mut ids = Vec::new();
        if !self.vms.is_empty() {
            for id in gather(&client, &self.vms, async |vm| Ok(vm.id.clone())).await? {
                match id {
                    Ok(id) => ids.push(id),
                    Err(error) => {
                        failed = true;
                        ui.error(&error);
                    }
                }
            }
            if ids.is_empty() {
                return Err(CommandError::already_reported(1));
            }
        }
        if self.format.is_table() && !self.no_stream && io::stdout().is_terminal() {
            stream(&client, ids).await?;
        } else {
            let stats = client.stats(&ids).await?;
            ui.list(&self.format, &stats, |vm| vm.id.to_string(), table)?;
        }
        if failed { Err(CommandError::already_reported(1)) } else { Ok(ExitCode::SUCCESS) }
    }
}

/// Updates the table until Ctrl-C, or until none of the requested VMs exists.
async fn stream(client: &Client, mut ids: Vec<Id>) -> Result<(), CommandError> {
    let mut live = LiveTable::default();
    loop {
        match client.stats(&ids).await {
            Ok(stats) => live.draw(&table(&stats))?,
            Err(error) if error.kind == ErrorKind::NotFound => {
                let vms = client.vms().await?;
                ids.retain(|id| vms.iter().any(|vm| vm.id == *id));
                if ids.is_empty() {
                    return Ok(());
                }
                continue;
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

fn table(vms: &[VmStats]) -> Table {
    let mut table = Table::new([
        "NAME",
        "CPU",
        "MEMORY",
        "GUEST MEMORY",
        "SYSTEM OVERLAY",
        "WORK DISK",
        "RECEIVED",
        "SENT",
    ]);
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for vm in vms {
        let guest = vm.guest.as_ref();
        table.row([
            vm.name.to_string(),
            or_none(vm.cpu_percent.map(|percent| format!("{percent:.1}%"))),
            or_none(vm.resident.map(|resident| fraction(resident, vm.memory))),
            or_none(
                guest.map(|guest| {
                    fraction(used(guest.memory_total, guest.memory_available), guest.memory_total)
                }),
            ),
            or_none(disk(vm, "system_overlay")),
            or_none(disk(vm, "work")),
            or_none(guest.map(|guest| Size::bytes(guest.received).to_string())),
            or_none(guest.map(|guest| Size::bytes(guest.sent).to_string())),
        ]);
    }
    table
}

fn used(total: Size, available: Size) -> Size {
    Size::bytes(total.as_bytes().saturating_sub(available.as_bytes()))
}

fn disk(vm: &VmStats, name: &str) -> Option<String> {
    let disk: &DiskStats = vm.disks.iter().find(|disk| disk.name == name)?;
    Some(fraction(disk.real, disk.apparent))
}

fn fraction(part: Size, whole: Size) -> String {
    format!("{part} of {whole}")
}

#[cfg(test)]
mod tests {
    use banger_api::{GuestStats, VmState};

    use super::*;

    #[test]
    fn unknown_values_are_shown_as_dashes() {
        let disk =
            |name: &str| DiskStats { name: name.to_owned(), apparent: Size::gib(8), real: Size::mib(70) };
        let running = VmStats {
            id: Id::from_random([1; 8]),
            name: "box".parse().unwrap(),
            state: VmState::Running,
            at: "2026-11-25T10:00:00Z".parse().unwrap(),
            cpu_percent: Some(112.34),
            cpu_over_s: Some(10.0),
            vcpu: 2,
            resident: Some(Size::mib(310)),
            memory: Size::gib(2),
            disks: vec![disk("system_overlay"), disk("work")],
            guest: Some(GuestStats {
                uptime_ms: 1000,
                load: 0.5,
                memory_total: Size::mib(1987),
                memory_available: Size::mib(1800),
                received: 5 << 20,
                sent: 100,
            }),
        };
        let silent = VmStats { name: "quiet".parse().unwrap(), guest: None, ..running.clone() };
        let down = VmStats {
            name: "down".parse().unwrap(),
            cpu_percent: None,
            resident: None,
            disks: vec![],
            ..silent.clone()
        };
        insta::assert_snapshot!(table(&[running, silent, down]), @r"
        NAME    CPU      MEMORY       GUEST MEMORY   SYSTEM OVERLAY   WORK DISK   RECEIVED   SENT
        box     112.3%   310M of 2G   187M of 1.9G   70M of 8G        70M of 8G   5M         100B
        quiet   112.3%   310M of 2G   -              70M of 8G        70M of 8G   -          -
        down    -        -            -              -                -           -          -
        ");
    }
}
