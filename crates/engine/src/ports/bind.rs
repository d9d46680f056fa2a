//! Listens on ports of the host, and finds out who has a port that is taken.

use std::{
    collections::HashSet,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use banger_api::{Publish, visible_line};
use banger_sys::SocketProtocol;
use rustix::net::sockopt::set_ipv6_v6only;
use tokio::net::{TcpListener, TcpSocket};

/// Maximum number of connections that wait in the kernel.
const BACKLOG: u32 = 1024;

/// Listens on the host's port, at one address or at both of loopback.
pub(super) fn listen(port: &Publish) -> io::Result<Vec<Arc<TcpListener>>> {
    let at = |address| listen_at(SocketAddr::new(address, port.host)).map(Arc::new);
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
    let sockets = banger_sys::listeners(SocketProtocol::Tcp);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn port(address: Option<IpAddr>, host: u16) -> Publish {
        Publish { address, host, guest: 80, protocol: Default::default() }
    }

    /// Returns a port that was free just now.
    fn free_port() -> u16 {
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    #[tokio::test]
    async fn loopback_is_both_addresses_and_one_in_use_is_enough() {
        let number = free_port();
        let open = listen(&port(None, number)).unwrap();
        assert!(open.iter().all(|listener| listener.local_addr().unwrap().ip().is_loopback()));
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
    async fn an_address_is_only_itself() {
        let number = free_port();
        let _one = listen(&port(Some([127, 0, 0, 1].into()), number)).unwrap();
        let _other = listen(&port(Some([127, 0, 0, 2].into()), number)).unwrap();
        assert!(listen(&port(Some(Ipv4Addr::UNSPECIFIED.into()), number)).is_err());
        if let Ok(listeners) = listen(&port(Some(Ipv6Addr::UNSPECIFIED.into()), number)) {
            assert_eq!(listeners.len(), 1);
        }
    }
}
