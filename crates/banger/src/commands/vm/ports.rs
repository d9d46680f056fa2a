use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
};

use banger_api::{PublishedPort, Vm, VmName};
use banger_client::Client;
use banger_proto::{Listener, Transport};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    commands::{reference::reference, several::gather},
    error::CommandError,
    ui::{Format, Table, Ui},
};

/// List listening ports of running VMs, and which of them speak HTTP
///
/// The guest reports them, with the names of its processes. ENDPOINT is where a port is published, or a URL for it.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger vm ports box
  banger vm ports web db -o json")]
pub(crate) struct Ports {
    /// Ids, names, or unique prefixes of either
    #[arg(required = true, value_name = "VM", value_parser = reference())]
    vms: Vec<String>,
    #[command(flatten)]
    format: Format,
}

/// A listening port of a VM.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ListeningPort")]
pub(crate) struct Port {
    /// The VM.
    vm: VmName,
    /// Its transport protocol.
    #[schemars(with = "String", extend("enum" = ["tcp", "udp"]))]
    protocol: Transport,
    /// Address in the guest at which it listens; unspecified for all addresses.
    address: IpAddr,
    /// Its number.
    port: u16,
    /// A process in the guest that has it open.
    pid: Option<u32>,
    /// That process's name.
    process: Option<String>,
    /// Whether it speaks HTTP.
    http: bool,
    /// Address on the host at which it is published, if it is.
    endpoint: Option<String>,
    /// URL at which the host's browser shows it, if it speaks HTTP: where it is published, else at the reverse proxy.
    url: Option<String>,
}

impl Ports {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let proxy = proxy_port(&client).await?;
        let results = gather(&client, &self.vms, async |vm| {
            let listeners = banger_client::ports(&client, vm.name.as_str()).await;
            Ok(listeners?.into_iter().map(|listener| Port::new(vm, listener, proxy)).collect::<Vec<_>>())
        })
        .await?;
        let (mut ports, mut errors) = (Vec::new(), Vec::new());
        for result in results {
            match result {
                Ok(vm_ports) => ports.extend(vm_ports),
                Err(error) => errors.push(error),
            }
        }
        let id = |port: &Port| format!("{}:{}/{}", port.vm, port.port, protocol_name(port.protocol));
        ui.list(&self.format, &ports, id, table)?;
        errors.iter().for_each(|error| ui.error(error));
        if errors.is_empty() { Ok(ExitCode::SUCCESS) } else { Err(CommandError::already_reported(1)) }
    }
}

impl Port {
    fn new(vm: &Vm, listener: Listener, proxy: Option<u16>) -> Self {
        let Listener { protocol, address, port, pid, process, http } = listener;
        let is_reachable = is_reachable(address);
        let endpoint =
            published(vm, protocol, port).filter(|_| is_reachable).map(|endpoint| endpoint.to_string());
        let proxied = || proxy.filter(|_| is_reachable).map(|proxy| proxy_url(&vm.name, port, proxy));
        let url = endpoint.as_ref().map(|endpoint| format!("http://{endpoint}/")).or_else(proxied);
        let url = url.filter(|_| http);
        Self { vm: vm.name.clone(), protocol, address, port, pid, process, http, endpoint, url }
    }
}

/// Returns whether the agent reaches a listener at `address` on the guest's loopback.
pub(super) fn is_reachable(address: IpAddr) -> bool {
    address.is_loopback() || address.is_unspecified()
}

/// Returns the address of the host at which a port of `vm` is published.
fn published(vm: &Vm, protocol: Transport, guest: u16) -> Option<SocketAddr> {
    let has = |port: &&PublishedPort| {
        port.open && port.guest == guest && port.protocol.as_str() == protocol_name(protocol)
    };
    let port = vm.published.iter().find(has)?;
    let endpoint = port.publish().endpoint();
    // This host reaches a listener on all addresses at loopback.
    let address = match endpoint.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        address => address,
    };
    Some(SocketAddr::new(address, endpoint.port()))
}

/// Returns the port of the daemon's reverse proxy, if that listens.
async fn proxy_port(client: &Client) -> Result<Option<u16>, CommandError> {
    let proxy = client.daemon_status().await?.and_then(|status| status.proxy);
    Ok(proxy.filter(|proxy| proxy.error.is_none()).map(|proxy| proxy.port))
}

/// Returns the address of a VM's port at the reverse proxy.
pub(super) fn proxy_url(vm: &VmName, port: u16, proxy: u16) -> String {
    format!("http://{port}.{vm}.localhost:{proxy}/")
}

fn protocol_name(protocol: Transport) -> &'static str {
    match protocol {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    }
}

fn table(ports: &[Port]) -> Table {
    let mut table =
        Table::new(["VM", "PROTOCOL", "ADDRESS", "PORT", "PROCESS", "PID", "SERVICE", "ENDPOINT"]);
    for port in ports {
        table.row([
            port.vm.to_string(),
            protocol_name(port.protocol).to_owned(),
            port.address.to_string(),
            port.port.to_string(),
            port.process.clone().unwrap_or_default(),
            port.pid.map(|pid| pid.to_string()).unwrap_or_default(),
            if port.http { "http".to_owned() } else { String::new() },
            port.url.clone().or_else(|| port.endpoint.clone()).unwrap_or_default(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_one_row_for_each_listener() {
        let port = |port, http| Port {
            vm: "box".parse().unwrap(),
            protocol: Transport::Tcp,
            address: [0, 0, 0, 0].into(),
            port,
            pid: Some(7),
            process: Some("py\x1bthon\n3".to_owned()),
            http,
            endpoint: http.then(|| "127.0.0.1:80".to_owned()),
            url: None,
        };
        insta::assert_snapshot!(table(&[port(22, false), port(80, true)]), @r"
        VM    PROTOCOL   ADDRESS   PORT   PROCESS      PID   SERVICE   ENDPOINT
        box   tcp        0.0.0.0   22     py^[thon 3   7
        box   tcp        0.0.0.0   80     py^[thon 3   7     http      127.0.0.1:80
        ");
    }
}
