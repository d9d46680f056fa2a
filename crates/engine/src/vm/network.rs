//! Starts a VM's network: pasta with the namespace process, and the gateway.

use std::{io, os::fd::OwnedFd, process::Command, sync::atomic::Ordering};

use banger_api::{Egress, HostPorts, NetworkKind};
use banger_net::{
    Pasta, addresses,
    gateway::{self, Sockets},
    namespace, rules,
};
use banger_proto::{AddressConfig, AddressV6Config, NetworkConfig};
use banger_sys::confine::{Namespaces, detach};
use banger_vmm::Tap;

use super::{
    process::LiveProcess,
    revert::revert_processes,
    spawn::{Pipes, Spawner, confine},
};
use crate::{
    error::EngineError, operation::Context, random::random, resource::ProcessRole, spans::now_ns,
    store::NetworkSockets,
};

/// Names of the sockets of the namespace process and the gateway in the VM's runtime directory.
const NAMESPACE_SOCKET: &str = "network.sock";
const GATEWAY_SOCKET: &str = "gateway.sock";

/// A VM's network that was created.
#[derive(Debug)]
pub(super) struct VmNetwork {
    /// The namespaces in which its VMM runs.
    pub(super) namespaces: Namespaces,
    /// For the VMM to inherit: the network ends with it.
    pub(super) lifeline: OwnedFd,
    /// The VMM's tap.
    pub(super) tap: Tap,
    /// The guest's addresses and resolver.
    pub(super) guest: NetworkConfig,
    /// The sockets of its processes.
    pub(super) sockets: NetworkSockets,
    /// Its processes.
    pub(super) processes: Vec<(ProcessRole, LiveProcess)>,
}

/// Creates the network of a VM that starts. Returns `None` if it has none, or this host cannot give it one: the user
/// is warned of that once.
pub(super) async fn start(
    spawner: Spawner<'_>,
    pipes: &Pipes,
    context: &Context,
) -> Result<Option<VmNetwork>, EngineError> {
    let Spawner { services, record } = spawner;
    if record.network_kind == NetworkKind::None {
        return Ok(None);
    }
    let pasta = match banger_net::find() {
        Ok(pasta) => pasta,
        Err(missing) => {
            if !services.network_warning_shown.swap(true, Ordering::Relaxed) {
                context.warn(format!("VMs start without a network: {missing}; see banger doctor")).await;
            }
            return Ok(None);
        }
    };
    let began = now_ns();
    let mtu = services.config.current()?.mtu();
    match create(spawner, pipes, context, &pasta, mtu).await {
        Ok(network) => {
            context.spans.end("network", began);
            Ok(Some(network))
        }
        // Limits of a container or a security module: a VM is useful without a network, too.
        Err(error @ EngineError::Network { .. }) => {
            revert_processes(&services.store, &record.id, ProcessRole::Pasta).await?;
            let log = services.vm_dir(record).vmm_log();
            context.warn(format!("{error}; the VM starts without one (log: {})", log.display())).await;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

async fn create(
    spawner: Spawner<'_>,
    pipes: &Pipes,
    context: &Context,
    pasta: &Pasta,
    mtu: u32,
) -> Result<VmNetwork, EngineError> {
    let Spawner { services, record } = spawner;
    let bangerd = &services.programs.bangerd;
    let run_dir = services.dirs.vm_runtime(record.id.as_str());
    let sockets =
        NetworkSockets { namespace: run_dir.join(NAMESPACE_SOCKET), gateway: run_dir.join(GATEWAY_SOCKET) };
    let failed = |source| EngineError::Network { name: record.name.to_string(), source };
    let listener = banger_net::listen(&sockets.namespace).map_err(failed)?;
    let control = banger_net::listen(&sockets.gateway).map_err(failed)?;
    let mut command = pasta.command(bangerd, listener);
    command.stdout(Pipes::duplicate(&pipes.vmm_output)?).stderr(Pipes::duplicate(&pipes.vmm_output)?);
    detach(&mut command, Vec::new());
    let pasta = spawner.spawn(ProcessRole::Pasta, command)?;
    let rules = rules_of(&record.egress, &record.allow_host);
    let (socket, ports, name) =
        (sockets.namespace.clone(), record.allow_host.clone(), record.name.to_string());
    let pidfd = pasta.pidfd()?;
    let started = context.blocking(move |_| {
        let started = namespace::connect(&socket).and_then(|process| process.start(pidfd, rules, mtu, ports));
        started.map_err(|source| EngineError::Network { name, source })
    });
    let started = started.await?;
    let flows = services.vm_dir(record).flows();
    let flows = banger_net::record::open_for_gateway(&flows).map_err(EngineError::file("open", &flows))?;
    let (arguments, descriptors) = Sockets::arguments(control, flows, started.gateway).map_err(failed)?;
    let mut command = Command::new(bangerd);
    command.arg("gateway").arg(record.egress.to_string()).args(arguments).stdin(std::process::Stdio::null());
    command.stdout(Pipes::duplicate(&pipes.vmm_output)?).stderr(Pipes::duplicate(&pipes.vmm_output)?);
    confine(&mut command, &gateway::confinement(), descriptors, None)?;
    let gateway = spawner.spawn(ProcessRole::Gateway, command)?;
    Ok(VmNetwork {
        namespaces: started.namespaces,
        lifeline: started.lifeline,
        tap: Tap { name: addresses::TAP.to_owned(), mac: addresses::GUEST_MAC },
        guest: guest(started.ipv6, mtu),
        sockets,
        processes: vec![(ProcessRole::Pasta, pasta), (ProcessRole::Gateway, gateway)],
    })
}

/// Changes the policy of a running VM: the rules first, then the names that resolve. After a failure, the rules of
/// `old` apply. Blocks.
pub(super) fn set_egress(
    sockets: &NetworkSockets,
    allow_host: &HostPorts,
    old: &Egress,
    new: &Egress,
) -> io::Result<()> {
    let apply = |egress| namespace::connect(&sockets.namespace)?.apply(rules_of(egress, allow_host));
    apply(new)?;
    gateway::set_egress(&sockets.gateway, new).inspect_err(|error| {
        if let Err(restoring) = apply(old) {
            tracing::error!(%error, %restoring, "cannot restore the rules of a VM's network");
        }
    })
}

/// Returns the text of a policy's rules, with a number that the rules before did not have.
fn rules_of(egress: &Egress, allow_host: &HostPorts) -> String {
    // 0 is the mark of a connection that no rules have allowed.
    rules::rules(egress, allow_host, u32::from_be_bytes(random()).max(1))
}

/// Returns the guest's addresses and resolver.
fn guest(ipv6: bool, mtu: u32) -> NetworkConfig {
    let v6 = AddressV6Config { address: addresses::GUEST_V6, prefix: addresses::PREFIX_V6 };
    NetworkConfig {
        interface: addresses::GUEST_INTERFACE.to_owned(),
        addresses: vec![AddressConfig { address: addresses::GUEST, prefix: addresses::PREFIX }],
        gateway: Some(addresses::GATEWAY),
        nameservers: vec![addresses::GATEWAY],
        mtu: Some(mtu),
        addresses_v6: ipv6.then_some(v6).into_iter().collect(),
        gateway_v6: ipv6.then_some(addresses::GATEWAY_V6),
        search: gateway::search_domains(),
    }
}
