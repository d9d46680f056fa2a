//! The process itself: one thread, which answers one request at a time.

use std::{
    fs::File,
    io,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
};

use banger_api::{HostPorts, Network as IpNetwork};
use banger_sys::{confine::keep_network_capabilities, netlink::PacketLog};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, accept_with, socketpair},
    pipe::{PipeFlags, pipe_with},
    process::{Signal, set_parent_process_death_signal},
};

use super::{
    links,
    nft::Nft,
    wire::{GatewayRequest, Reply, Request},
};
use crate::{
    addresses::{GATEWAY, GATEWAY_V6},
    message::{receive, send},
    rules,
};

/// The port of DNS.
const DNS: u16 = 53;

/// Runs the process `bangerd namespace NFT` until the VMM ends, or pasta. Requests come through the
/// listening socket that is standard input, whose directory only its user can enter.
///
/// # Errors
/// Returns an error if standard input is no such socket.
pub fn main(nft: PathBuf) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    keep_network_capabilities()?;
    let listener = rustix::io::dup(rustix::stdio::stdin())?;
    Server { nft: Nft(nft), listener, network: None }.run()
}

struct Server {
    nft: Nft,
    listener: OwnedFd,
    network: Option<Network>,
}

struct Network {
    /// The gateway's requests; `None` after its end.
    gateway: Option<OwnedFd>,
    /// A pipe that only the VMM has open for writing: it ends with the VMM.
    vmm: OwnedFd,
}

impl Server {
    fn run(mut self) -> io::Result<()> {
        loop {
            let [has_request, has_gateway, vmm_ended] = self.wait()?;
            if vmm_ended {
                return Ok(());
            }
            if has_request {
                self.answer()?;
            }
            let Some(network) = &mut self.network else { continue };
            if has_gateway {
                network.answer_gateway(&self.nft);
            }
        }
    }

    /// Waits until there is something to do: a daemon's connection, a gateway's request, the VMM's end.
    fn wait(&self) -> io::Result<[bool; 3]> {
        let network = self.network.as_ref();
        let gateway = network.and_then(|network| network.gateway.as_ref());
        let sources: [Option<BorrowedFd<'_>>; 3] = [
            Some(self.listener.as_fd()),
            gateway.map(AsFd::as_fd),
            network.map(|network| network.vmm.as_fd()),
        ];
        let mut polled: Vec<_> =
            sources.iter().flatten().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        match poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut ready = polled.iter().map(|fd| !fd.revents().is_empty());
        Ok(sources.map(|source| source.is_some() && ready.next().unwrap_or(false)))
    }

    /// Accepts a connection of the daemon and answers its request.
    fn answer(&mut self) -> io::Result<()> {
        let connection = match accept_with(&self.listener, SocketFlags::CLOEXEC) {
            Ok(connection) => connection,
            Err(Errno::INTR | Errno::AGAIN | Errno::CONNABORTED) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let request = match receive::<Request>(&connection) {
            Ok(Some((request, _))) => request,
            // The daemon may have ended.
            Ok(None) | Err(_) => return Ok(()),
        };
        let result = match request {
            Request::Start { rules, mtu, host_ports } => self.start(&rules, mtu, &host_ports),
            Request::Apply { rules } => self.nft.apply(&rules).map(|()| (Reply::Applied, Vec::new())),
        };
        let (reply, descriptors) =
            result.unwrap_or_else(|error| (Reply::Failed { message: error.to_string() }, Vec::new()));
        let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        // The daemon may have ended meanwhile; the next one reverts the start.
        let _ = send(&connection, &reply, &borrowed);
        Ok(())
    }

    fn start(&mut self, text: &str, mtu: u32, host_ports: &HostPorts) -> io::Result<(Reply, Vec<OwnedFd>)> {
        if self.network.is_some() {
            return Err(io::Error::other("the network exists already"));
        }
        // Before the rules, which need the part of the kernel that this loads.
        let log = PacketLog::subscribe(rules::LOG_GROUP, rules::LOG_LENGTH).map_err(|error| {
            io::Error::new(error.kind(), format!("the kernel does not log packets (nfnetlink_log): {error}"))
        })?;
        self.nft.apply(text)?;
        let ipv6 = links::create(mtu)?;
        let (vmm, lifeline) = pipe_with(PipeFlags::CLOEXEC)?;
        let (requests, ours) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let mut addresses = vec![IpAddr::from(GATEWAY)];
        addresses.extend(ipv6.then_some(IpAddr::from(GATEWAY_V6)));
        let reply = Reply::Started { ipv6 };
        let namespaces = ["/proc/self/ns/net", "/proc/self/ns/user"].map(File::open);
        let namespaces = namespaces.into_iter().map(|file| file.map(OwnedFd::from));
        let mut descriptors = namespaces.collect::<io::Result<Vec<_>>>()?;
        descriptors.extend([lifeline, requests, log.into()]);
        for address in &addresses {
            descriptors.push(UdpSocket::bind(SocketAddr::new(*address, DNS))?.into());
        }
        for port in [&[DNS], host_ports.ports()].concat() {
            for address in &addresses {
                descriptors.push(TcpListener::bind(SocketAddr::new(*address, port))?.into());
            }
        }
        self.network = Some(Network { gateway: Some(ours), vmm });
        Ok((reply, descriptors))
    }
}

impl Network {
    fn answer_gateway(&mut self, nft: &Nft) {
        let Some(gateway) = &self.gateway else { return };
        let text = match receive::<GatewayRequest>(gateway) {
            Ok(Some((GatewayRequest::Host { addresses, routes }, _))) => {
                let routes: Vec<_> = routes
                    .into_iter()
                    .filter_map(|(address, prefix)| IpNetwork::new(address, prefix))
                    .collect();
                rules::host(&addresses, &routes)
            }
            Ok(Some((GatewayRequest::Pin(pins), _))) => rules::pin(&pins),
            Ok(None) | Err(_) => {
                self.gateway = None;
                return;
            }
        };
        let is_done = nft.apply(&text).is_ok();
        if send(gateway, &is_done, &[]).is_err() {
            self.gateway = None;
        }
    }
}
