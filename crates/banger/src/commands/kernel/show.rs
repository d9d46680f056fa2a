use std::process::ExitCode;

use banger_api::{DriverPresence, Kernel, KernelDetails};
use banger_client::Client;

use crate::{
    commands::reference::reference,
    error::CommandError,
    ui::{Format, Table, Ui},
};

/// Show a kernel's details: drivers, and VMMs that can boot it
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// Id, name, or unique prefix of either
    #[arg(value_parser = reference())]
    kernel: String,
    #[command(flatten)]
    format: Format,
}

impl Show {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let kernel = Client::new()?.kernel(&self.kernel).await?;
        ui.show(&self.format, &kernel, |kernel| kernel.id.to_string(), |kernel| table(ui, kernel))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn table(ui: &Ui, kernel: &Kernel) -> Table {
    let mut table = Table::from_fields([
        ("name", kernel.name.to_string()),
        ("id", kernel.id.to_string()),
        ("release", kernel.release.clone()),
        ("on disk", kernel.disk_usage.to_string()),
        ("source", kernel.source.clone()),
        ("created", ui.ago(kernel.created_at)),
        ("used by", kernel.used_by.join(", ")),
    ]);
    for (name, value) in kernel.details.iter().flat_map(rows) {
        table.row([format!("{name}:"), value]);
    }
    table
}

/// Returns a kernel's details. In each row, the drivers that VMs boot with come first.
fn rows(details: &KernelDetails) -> Vec<(&'static str, String)> {
    let vmms = [(details.firecracker, "firecracker"), (details.qemu, "qemu")];
    let boots = vmms.iter().filter(|(boots, _)| *boots).map(|(_, vmm)| *vmm).collect::<Vec<_>>();
    let mut rows = vec![
        ("vmlinux", details.vmlinux.to_string()),
        ("modules", details.modules.to_string()),
        ("boots with", if boots.is_empty() { "no VMM".to_owned() } else { boots.join(", ") }),
    ];
    for (name, presence) in [
        ("built in", DriverPresence::BuiltIn),
        ("as modules", DriverPresence::Module),
        ("missing", DriverPresence::Missing),
        ("unknown", DriverPresence::Unknown),
    ] {
        let drivers = details.drivers.iter().filter(|driver| driver.presence == presence);
        let names: Vec<_> = drivers.map(|driver| driver.name.as_str()).collect();
        if !names.is_empty() {
            rows.push((name, names.join(" ")));
        }
    }
    rows
}
