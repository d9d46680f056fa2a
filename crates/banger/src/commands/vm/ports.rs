use std::{net::IpAddr, process::ExitCode};

use banger_api::{Vm, VmName};
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
/// The guest reports them, with the names of its processes.
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
    /// Address at which the host reaches it, if it does.
    endpoint: Option<String>,
    /// The same as a URL, if it speaks HTTP.
    url: Option<String>,
}

impl Ports {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let results = gather(&client, &self.vms, async |vm| {
            let listeners = banger_client::ports(&client, vm.name.as_str()).await;
            Ok(listeners?.into_iter().map(|listener| Port::new(vm, listener)).collect::<Vec<_>>())
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
    fn new(vm: &Vm, listener: Listener) -> Self {
        let Listener { protocol, address, port, pid, process, http } = listener;
        let endpoint = host_name(vm, address).map(|host| format!("{host}:{port}"));
        let url = endpoint.as_ref().filter(|_| http).map(|endpoint| format!("http://{endpoint}"));
        Self { vm: vm.name.clone(), protocol, address, port, pid, process, http, endpoint, url }
    }
}

/// Returns the host name at which the host reaches a listener at `address` in `vm`. No VM has a network from the host
/// into the guest; for a VM with such a network, the name is `NAME.vm`, except for the guest's loopback addresses.
fn host_name(_vm: &Vm, _address: IpAddr) -> Option<String> {
    None
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
            endpoint: http.then(|| "box.vm:80".to_owned()),
            url: None,
        };
        insta::assert_snapshot!(table(&[port(22, false), port(80, true)]), @r"
        VM    PROTOCOL   ADDRESS   PORT   PROCESS      PID   SERVICE   ENDPOINT
        box   tcp        0.0.0.0   22     py^[thon 3   7
        box   tcp        0.0.0.0   80     py^[thon 3   7     http      box.vm:80
        ");
    }
}
