//! Finds the guest's process of each flow: the gateway records what was asked for, the agent by which process.
//!
//! Both know a destination by protocol, address and port. The agent may report anything, and is not waited for.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use banger_api::{Flow, FlowProtocol, GuestText, Id, VmState};
use banger_proto::{Connection, Transport};
use tokio::time::timeout;

use super::{guest, services::Services};

/// Timeout for the guest's processes. Flows are shown without them after it.
const GUEST_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum length of a process's name, in bytes. Linux has 15, each of which may need several to be visible.
const MAX_NAME: usize = 64;

/// The processes of a VM's flows.
#[derive(Debug)]
pub(super) struct FlowProcesses {
    services: Arc<Services>,
    vm: Id,
}

impl FlowProcesses {
    pub(super) fn new(services: Arc<Services>, vm: Id) -> Self {
        Self { services, vm }
    }

    /// Sets the processes of flows, if the VM runs and its agent knows them and answers in time.
    pub(super) async fn add_to(&self, flows: &mut [Flow]) {
        let vm = self.services.store.vm(&self.vm).ok().flatten();
        let running = vm.filter(|vm| vm.state == VmState::Running && !flows.is_empty());
        let Some(handle) = running.and_then(|vm| vm.handle) else { return };
        match timeout(GUEST_TIMEOUT, guest::connections(&handle)).await {
            Ok(Ok(connections)) => join(flows, &connections),
            Ok(Err(error)) => {
                tracing::debug!(vm = %self.vm, %error, "cannot get the processes of flows from the guest");
            }
            Err(_) => tracing::debug!(vm = %self.vm, "the guest did not send the processes of flows in time"),
        }
    }
}

fn join(flows: &mut [Flow], connections: &[Connection]) {
    let destination = |connection: &Connection| {
        let protocol = match connection.protocol {
            Transport::Tcp => FlowProtocol::Tcp,
            Transport::Udp => FlowProtocol::Udp,
        };
        (protocol, connection.address, connection.port)
    };
    let processes: HashMap<(FlowProtocol, IpAddr, u16), &Connection> =
        connections.iter().map(|connection| (destination(connection), connection)).collect();
    for flow in flows {
        let (Some(address), Some(port)) = (flow.address, flow.port) else { continue };
        if let Some(connection) = processes.get(&(flow.protocol, address, port)) {
            flow.process = Some(GuestText::bounded(&connection.process, MAX_NAME).to_string());
            flow.pid = Some(connection.pid);
        }
    }
}

#[cfg(test)]
mod tests {
    use banger_api::FlowVerdict;
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn flows_get_the_process_of_their_protocol_address_and_port() {
        let flow = |protocol, address: &str, port| Flow {
            verdict: FlowVerdict::Refused,
            protocol,
            name: None,
            address: address.parse().ok(),
            port,
            process: None,
            pid: None,
            count: 1,
            first_at: Timestamp::UNIX_EPOCH,
            last_at: Timestamp::UNIX_EPOCH,
        };
        let connection = |protocol, address: &str, port, pid, process: &str| Connection {
            protocol,
            address: address.parse().unwrap(),
            port,
            pid,
            process: process.to_owned(),
        };
        let mut flows = [
            flow(FlowProtocol::Tcp, "203.0.113.1", Some(443)),
            flow(FlowProtocol::Udp, "203.0.113.1", Some(443)),
            flow(FlowProtocol::Tcp, "2001:db8::1", Some(443)),
            flow(FlowProtocol::Tcp, "203.0.113.1", Some(80)),
            flow(FlowProtocol::Icmp, "203.0.113.1", None),
            flow(FlowProtocol::Dns, "-", None),
        ];
        let long = "\u{1b}".repeat(10_000);
        let connections = [
            connection(Transport::Tcp, "203.0.113.1", 443, 212, "curl"),
            connection(Transport::Udp, "203.0.113.1", 443, 213, "a\u{1b}[2J\n\u{202e}b"),
            connection(Transport::Tcp, "2001:db8::1", 443, 0, &long),
            connection(Transport::Tcp, "203.0.113.2", 80, 1, "other"),
        ];
        join(&mut flows, &connections);
        let processes: Vec<_> = flows.iter().map(|flow| (flow.process.as_deref(), flow.pid)).collect();
        assert_eq!(processes[..2], [(Some("curl"), Some(212)), (Some("a^[[2J <U+202E>b"), Some(213))]);
        assert!(processes[2].0.is_some_and(|name| name.len() <= MAX_NAME && !name.contains('\u{1b}')));
        assert_eq!(processes[3..], [(None, None); 3]);
    }
}
