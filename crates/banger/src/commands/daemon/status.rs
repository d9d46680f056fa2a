use std::process::ExitCode;

use banger_api::{DaemonStatus, ProxyStatus, Size};
use banger_client::Client;

use crate::{
    error::CommandError,
    ui::{Format, Table, Ui},
};

/// Show the daemon's status and what it detected on this host
///
/// The exit status is 1 if the daemon does not run.
#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    #[command(flatten)]
    format: Format,
}

impl Status {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let Some(status) = Client::new()?.daemon_status().await? else {
            ui.note("bangerd is not running; it starts with the first command that needs it");
            return Ok(ExitCode::FAILURE);
        };
        ui.show(&self.format, &status, |status| status.pid.to_string(), table)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn proxy(status: &DaemonStatus) -> String {
    match &status.proxy {
        None => "off".to_owned(),
        Some(ProxyStatus { port, error: None }) => format!("http://PORT.VM.localhost:{port}/"),
        Some(ProxyStatus { error: Some(error), .. }) => format!("not available: {error}"),
    }
}

fn table(status: &DaemonStatus) -> Table {
    Table::from_fields([
        ("version", status.version.clone()),
        ("process", status.pid.to_string()),
        ("up", format!("{} s", status.uptime_s)),
        ("memory", Size::bytes(status.resident).to_string()),
        ("running VMs", status.running_vms.to_string()),
        ("operations", status.operations.to_string()),
        ("VMM", status.vmm.clone()),
        ("KVM", status.kvm.clone()),
        ("proxy", proxy(status)),
        ("socket", status.socket.clone()),
        ("state", status.state_dir.clone()),
        ("log", status.log.clone()),
    ])
}
