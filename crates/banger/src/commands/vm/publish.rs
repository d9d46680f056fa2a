use std::process::ExitCode;

use banger_api::{Publish, PublishPorts, PublishedPort, Vm, VmName};
use banger_client::Client;
use banger_tools::Plan;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    commands::reference::reference,
    error::CommandError,
    operation::watch,
    signals,
    ui::{Format, Table, Ui},
    workspace::tools::publish,
};

/// Ports of a new VM.
#[derive(Debug, clap::Args)]
pub(crate) struct PublishArgs {
    /// Publish this port of the VM on the host while the VM runs, on loopback unless ADDR is given
    #[arg(short, long, alias = "port", value_name = "[[ADDR:]HOST:]GUEST[/udp]")]
    pub(crate) publish: Vec<Publish>,
    /// Publish each TCP port on which something in the VM listens, as long as it does: at the same port of the host if
    /// that is free
    #[arg(short = 'P', long)]
    pub(crate) publish_all: bool,
}

/// Publish ports of a VM on this host
///
/// bangerd listens on the host while the VM runs, also after a restart of either, and connects each client to
/// `localhost` in the guest. The guest needs no network. Without ADDR, only this host can connect.
#[derive(Debug, clap::Args)]
#[command(
    name = "publish",
    before_help = "Examples:
  banger vm publish box 3000                at localhost:3000
  banger vm publish box 8080:80 8443:443
  banger vm publish box 0.0.0.0:8080:80     for other hosts, too
  banger vm publish box [::1]:8080:80
  banger vm publish box 5353:53/udp
  banger vm publish box --all               whatever listens in the VM"
)]
pub(crate) struct PublishCommand {
    /// Id, name, or unique prefix of either
    #[arg(value_parser = reference())]
    vm: String,
    /// Ports of the host and the guest
    #[arg(required_unless_present = "all", value_name = "[[ADDR:]HOST:]GUEST[/udp]")]
    ports: Vec<Publish>,
    /// Publish each TCP port on which something in the VM listens, as long as it does
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    format: Format,
}

/// A published port of a VM.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "PublishedPortOfVm")]
pub(crate) struct Published {
    /// The VM.
    vm: VmName,
    #[serde(flatten)]
    port: PublishedPort,
    /// The address on the host as `ADDRESS:PORT`.
    endpoint: String,
}

impl PublishCommand {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let request = PublishPorts { ports: self.ports, all: self.all };
        let events = signals::cancellable().run(client.publish(&self.vm, &request)).await?;
        let (vm, _) = watch::<Vm>(&client, &mut events?, ui).await?;
        let published: Vec<_> = vm.published.iter().map(|port| Published::new(&vm, port)).collect();
        ui.list(&self.format, &published, |published| published.endpoint.clone(), table)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Published {
    fn new(vm: &Vm, port: &PublishedPort) -> Self {
        Self { vm: vm.name.clone(), port: port.clone(), endpoint: port.publish().endpoint().to_string() }
    }
}

fn table(published: &[Published]) -> Table {
    let mut table = Table::new(["VM", "GUEST PORT", "HOST", "STATE"]);
    for Published { vm, port, endpoint } in published {
        table.row([
            vm.to_string(),
            format!("{}/{}", port.guest, port.protocol.as_str()),
            endpoint.clone(),
            state(port),
        ]);
    }
    table
}

/// Returns a port's state for people.
pub(super) fn state(port: &PublishedPort) -> String {
    match &port.error {
        Some(error) => format!("not open: {error}"),
        None if port.automatic => "open as long as the VM listens".to_owned(),
        None if port.open => "open".to_owned(),
        None => "opens when the VM starts".to_owned(),
    }
}

/// Prints the addresses of a new VM's ports.
pub(super) fn print_published(ui: &Ui, vm: &Vm) {
    for port in vm.published.iter().filter(|port| port.open) {
        ui.note(format_args!("port {} of VM {} is at {}", port.guest, vm.name, port.publish().endpoint()));
    }
}

/// Returns the ports that a repository requests and the user permits.
pub(super) fn from_plan(plan: &Plan) -> Vec<Publish> {
    plan.ports.iter().map(publish).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_whether_a_port_is_open() {
        let port = |text: &str, open, error: Option<&str>| {
            let Publish { address, host, guest, protocol } = text.parse().unwrap();
            let error = error.map(str::to_owned);
            let port = PublishedPort { address, host, guest, protocol, automatic: false, open, error };
            let endpoint = port.publish().endpoint().to_string();
            Published { vm: "box".parse().unwrap(), port, endpoint }
        };
        let ports = [
            port("8080:80", true, None),
            port("[::1]:81:81", false, None),
            port("82", false, Some("port 82 of this host is published by VM web")),
        ];
        insta::assert_snapshot!(table(&ports), @r"
        VM    GUEST PORT   HOST             STATE
        box   80/tcp       127.0.0.1:8080   open
        box   81/tcp       [::1]:81         opens when the VM starts
        box   82/tcp       127.0.0.1:82     not open: port 82 of this host is published by VM web
        ");
    }
}
