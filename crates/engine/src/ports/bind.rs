//! Listens on ports of the host, and finds out who has a port that is taken.

use std::{
    collections::HashSet,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use banger_api::{PortProtocol, Publish, visible_line};
use banger_sys::SocketProtocol;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt::set_ipv6_v6only};
use tokio::net::{TcpListener, TcpSocket, UdpSocket};

/// Maximum number of connections that wait in the kernel.
const BACKLOG: u32 = 1024;

/// A socket of the host for a published port.
#[derive(Debug, Clone)]
pub(super) enum Listener {
    Tcp(Arc<TcpListener>),
    Udp(Arc<UdpSocket>),
}

/// Listens on the host's port, at one address or at both of loopback.
pub(super) fn listen(port: &Publish) -> io::Result<Vec<Listener>> {
    let at = |address| {
        let address = SocketAddr::new(address, port.host);
        match port.protocol {
            PortProtocol::Tcp => listen_at(address).map(|socket| Listener::Tcp(Arc::new(socket))),
            PortProtocol::Udp => bind_at(address).map(|socket| Listener::Udp(Arc::new(socket))),
        }
    };
    let Some(address) = port.address else {
        let first = at(Ipv4Addr::LOCALHOST.into())?;
        return match at(Ipv6Addr::LOCALHOST.into()) {
            Ok(second) => Ok(vec![first, second]),
            // `localhost` is both addresses: another program's service there would be found in place of the VM's.
            Err(error) if error.kind() == ErrorKind::AddrInUse => Err(error),
            // The host has no IPv6.
            Err(_) => Ok(vec![first]),
        };
    };
    Ok(vec![at(address)?])
}

/// Returns a port of loopback that is free now.
pub(super) fn free_port() -> io::Result<u16> {
    Ok(std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn listen_at(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => {
            let socket = TcpSocket::new_v6()?;
            // An address is only itself.
            set_ipv6_v6only(&socket, true)?;
            socket
        }
    };
    // Connections of the last daemon may be in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn bind_at(address: SocketAddr) -> io::Result<UdpSocket> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::DGRAM, flags, None)?;
    if address.is_ipv6() {
        set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    UdpSocket::from_std(socket.into())
}

/// Returns whether two listeners on one port exclude each other.
pub(super) fn overlaps(one: Option<IpAddr>, other: Option<IpAddr>) -> bool {
    let addresses = |address: Option<IpAddr>| match address {
        None => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        Some(address) => vec![address],
    };
    addresses(one).into_iter().any(|one: IpAddr| {
        let conflicts = |other: IpAddr| {
            one.is_ipv4() == other.is_ipv4()
                && (one == other || one.is_unspecified() || other.is_unspecified())
        };
        addresses(other).into_iter().any(conflicts)
    })
}

/// Returns who listens on the host's port, for people, if `/proc` says it.
pub(super) fn owner(port: &Publish) -> Option<String> {
    let sockets = banger_sys::listeners(match port.protocol {
        PortProtocol::Tcp => SocketProtocol::Tcp,
        PortProtocol::Udp => SocketProtocol::Udp,
    });
    let inodes: HashSet<u64> = sockets
        .iter()
        .filter(|socket| socket.port == port.host)
        // A listener on all addresses of IPv6 has the port of IPv4, too.
        .filter(|socket| {
            socket.address == Ipv6Addr::UNSPECIFIED || overlaps(port.address, Some(socket.address))
        })
        .map(|socket| socket.inode)
        .collect();
    let owners = banger_sys::owners(inodes);
    let owner = owners.values().min_by_key(|owner| owner.pid)?;
    Some(format!("process {} ({})", owner.pid, visible_line(&owner.name)))
}

/// Returns who listens on a port of the host's loopback, for people, if `/proc` says it.
pub(crate) fn owner_on_loopback(port: u16) -> Option<String> {
    owner(&Publish { address: None, host: port, guest: port, protocol: banger_api::PortProtocol::Tcp })
}

/// Returns a free port that neither another test nor the kernel chooses: below those of outgoing connections, and not
/// among those of the tests on fake VMMs, which run at the same time.
#[cfg(test)]
pub(super) fn unused_port() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 100).unwrap() * 100 + 10_000;
    let mut ports = (0..1_000).map(|_| first + NEXT.fetch_add(1, Ordering::Relaxed) % 1_000);
    ports.find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(address: Option<IpAddr>, host: u16) -> Publish {
        Publish { address, host, guest: 80, protocol: Default::default() }
    }

    #[tokio::test]
    async fn loopback_is_both_addresses_and_one_in_use_is_enough() {
        let number = unused_port();
        let open = listen(&port(None, number)).unwrap();
        assert!(!open.is_empty());
        drop(open);
        for address in ["127.0.0.1", "::1"] {
            let Ok(_service) = std::net::TcpListener::bind((address, number)) else { continue };
            let error = listen(&port(None, number)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AddrInUse, "{address}");
            let owner = owner(&port(None, number)).unwrap();
            assert!(owner.starts_with(&format!("process {} (", std::process::id())), "{owner}");
        }
    }

    #[tokio::test]
    async fn a_udp_port_is_another_than_the_tcp_port_of_the_same_number() {
        let number = unused_port();
        let udp = Publish { protocol: PortProtocol::Udp, ..port(None, number) };
        let _tcp = listen(&port(None, number)).unwrap();
        let _udp = listen(&udp).unwrap();
        assert_eq!(listen(&udp).unwrap_err().kind(), ErrorKind::AddrInUse);
        assert!(owner(&udp).unwrap().starts_with("process "));
    }

    #[tokio::test]
    async fn an_address_is_only_itself() {
        let number = unused_port();
        let _one = listen(&port(Some([127, 0, 0, 1].into()), number)).unwrap();
        let _other = listen(&port(Some([127, 0, 0, 2].into()), number)).unwrap();
        assert!(listen(&port(Some(Ipv4Addr::UNSPECIFIED.into()), number)).is_err());
        if let Ok(listeners) = listen(&port(Some(Ipv6Addr::UNSPECIFIED.into()), number)) {
            assert_eq!(listeners.len(), 1);
        }
    }
}
