//! Follows the listeners of a guest, as its agent reports them. The guest is hostile: what it reports is bounded, and is
//! only a reason to listen on loopback.

use std::{collections::BTreeSet, time::Duration};

use banger_api::{ApiError, ErrorKind, MAX_AUTOMATIC, Publish, Remedy, SubjectKind, VmName};
use banger_proto::{GENERATION_OF_PORTS, Listener, Reply, Request, Transport};
use tokio::time::sleep;

use super::guest_socket::AgentAddress;
use crate::{
    error::EngineError,
    guest::{Agent, unexpected},
};

/// Delay before a broken connection to the agent is opened again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Minimum time between two changes, so that a guest whose listeners come and go costs the host little.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// Returns an error if the agent of VM `name` can neither report its listeners nor pass datagrams on.
pub(super) async fn check(name: &VmName, agent: &AgentAddress) -> Result<(), EngineError> {
    let stream = banger_vmm::connect(&agent.guest, agent.port).await?;
    let (_, greeting) = Agent::handshake(stream).await?;
    if greeting.generation >= GENERATION_OF_PORTS {
        return Ok(());
    }
    let message =
        format!("VM {name} runs an older agent, which neither knows UDP ports nor reports what listens");
    let error = ApiError::new(ErrorKind::VersionSkew, message).about(SubjectKind::Vm, name);
    Err(error.remedy(Remedy::UpdateAgent).into())
}

/// Calls `changed` with the guest's ports at once and whenever they change, forever.
pub(super) async fn watch(agent: AgentAddress, changed: impl Fn(BTreeSet<u16>)) {
    loop {
        // Only the VM's end, or a guest that does not follow the protocol, breaks the connection.
        if let Err(error) = watch_once(&agent, &changed).await {
            tracing::debug!(%error, "cannot follow what listens in the guest");
        }
        changed(BTreeSet::new());
        sleep(RETRY_DELAY).await;
    }
}

async fn watch_once(agent: &AgentAddress, changed: &impl Fn(BTreeSet<u16>)) -> Result<(), EngineError> {
    let stream = banger_vmm::connect(&agent.guest, agent.port).await?;
    let (mut agent, _, mut reply) = Agent::ask(stream, &Request::WatchPorts).await?;
    loop {
        match reply {
            Reply::Ports { listeners } => changed(reachable(&listeners)),
            other => return Err(unexpected(&other)),
        }
        sleep(MIN_INTERVAL).await;
        reply = agent.next_reply().await?;
    }
}

/// Returns the TCP ports that the agent reaches on its loopback.
fn reachable(listeners: &[Listener]) -> BTreeSet<u16> {
    let is_reachable = |listener: &&Listener| {
        listener.protocol == Transport::Tcp
            && listener.port > 0
            && (listener.address.is_loopback() || listener.address.is_unspecified())
    };
    listeners.iter().filter(is_reachable).map(|listener| listener.port).take(MAX_AUTOMATIC).collect()
}

/// Returns the port to publish for a guest's port: at the same port of the host's loopback, if that is free.
pub(super) fn automatic(guest: u16) -> Publish {
    Publish { address: None, host: guest, guest, protocol: banger_api::PortProtocol::Tcp }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tcp_ports_of_the_guests_loopback_are_published_and_only_so_many() {
        let listener = |protocol, address: &str, port| Listener {
            protocol,
            address: address.parse().unwrap(),
            port,
            pid: None,
            process: None,
            http: false,
        };
        let listeners = [
            listener(Transport::Tcp, "0.0.0.0", 80),
            listener(Transport::Tcp, "::", 80),
            listener(Transport::Tcp, "::1", 81),
            listener(Transport::Tcp, "127.0.0.1", 82),
            listener(Transport::Tcp, "10.0.2.15", 83),
            listener(Transport::Udp, "0.0.0.0", 84),
            listener(Transport::Tcp, "0.0.0.0", 0),
        ];
        assert_eq!(reachable(&listeners).into_iter().collect::<Vec<_>>(), [80, 81, 82]);
        let many: Vec<_> = (1..1000).map(|port| listener(Transport::Tcp, "::", port)).collect();
        assert_eq!(reachable(&many).len(), MAX_AUTOMATIC);
    }
}
