use std::process::ExitCode;

use banger_api::Vm;
use banger_client::Client;

use super::publish::state;
use crate::{
    commands::reference::reference,
    error::CommandError,
    ui::{Format, Table, Ui},
};

/// Show a VM's state, hardware, network and last error
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// Id, name, or unique prefix of either
    #[arg(value_parser = reference())]
    vm: String,
    #[command(flatten)]
    format: Format,
}

impl Show {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let vm = Client::new()?.vm(&self.vm).await?;
        ui.show(&self.format, &vm, |vm| vm.id.to_string(), |vm| table(ui, vm))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn table(ui: &Ui, vm: &Vm) -> Table {
    let vmm = match (vm.pid, vm.ran_with) {
        (Some(_), Some(ran)) => ran.to_string(),
        (_, Some(ran)) => format!("none; it last ran with {ran}"),
        (_, None) => "none".to_owned(),
    };
    let mut last_error = vm.last_error.as_deref().unwrap_or("none").lines();
    let why = last_error.next().unwrap_or_default().to_owned();
    let mut table = Table::from_fields([
        ("name", vm.name.to_string()),
        ("id", vm.id.to_string()),
        ("state", vm.state.to_string()),
        ("image", vm.image.clone()),
        ("kernel", vm.kernel.clone()),
        ("vcpu", vm.vcpu.to_string()),
        ("memory", vm.memory.to_string()),
        ("system overlay", vm.system_overlay_size.to_string()),
        ("work disk", vm.disk_size.to_string()),
        ("created", ui.ago(vm.created_at)),
        ("started", vm.started_at.map(|at| ui.ago(at)).unwrap_or_else(|| "not running".to_owned())),
        ("used", vm.last_used_at.map(|at| ui.ago(at)).unwrap_or_else(|| "never".to_owned())),
        ("VMM", vmm),
        ("process", vm.pid.map(|pid| pid.to_string()).unwrap_or_else(|| "none".to_owned())),
        ("network", vm.network.clone().unwrap_or_else(|| vm.network_kind.to_string())),
        ("egress", vm.egress.to_string()),
        ("host ports", vm.allow_host.to_string()),
        ("console", vm.console.clone()),
        ("last error", why),
    ]);
    if vm.publish_all {
        table.row(["published:".to_owned(), "each TCP port on which something listens".to_owned()]);
    }
    for port in &vm.published {
        let (at, state) = (port.publish().endpoint(), state(port));
        table.row([
            "published:".to_owned(),
            format!("port {}/{} at {at}, {state}", port.guest, port.protocol.as_str()),
        ]);
    }
    // The other lines are the guest's.
    for line in last_error {
        table.row(["its console:".to_owned(), line.to_owned()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_console_in_the_last_error_is_marked() {
        let vm: Vm = serde_json::from_value(serde_json::json!({
            "id": "00000000000000ab", "name": "box", "state": "error", "image": "i", "kernel": "k", "vcpu": 1,
            "memory": 1, "system_overlay_size": 1, "disk_size": 1, "rm": false,
            "created_at": "2026-01-01T00:00:00Z", "console": "/c",
            "last_error": "its VMM exited with status 1\nKernel panic\x1b[2J\nhint: run this",
        }))
        .unwrap();
        let text = table(&Ui::new(0, false), &vm).to_string();
        let end: Vec<_> = text.lines().rev().take(3).collect();
        assert_eq!(
            end,
            [
                "its console:      hint: run this",
                "its console:      Kernel panic^[[2J",
                "last error:       its VMM exited with status 1",
            ]
        );
    }
}
