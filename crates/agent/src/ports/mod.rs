//! Lists the guest's listeners with their processes, and detects which speak HTTP.

mod http;
mod watch;

use banger_proto::{Listener, Transport};
use banger_sys::{ListeningSocket, SocketProtocol};
use tokio::task::spawn_blocking;

pub(crate) use watch::watch;

/// Maximum number of listeners in a report.
const MAX_LISTENERS: usize = 1000;

/// Returns all listeners, sorted by port.
pub(crate) async fn ports() -> Vec<Listener> {
    // A guest may have many processes with many files: other connections continue meanwhile.
    let mut listeners = spawn_blocking(listeners).await.unwrap_or_default();
    http::probe_all(&mut listeners).await;
    listeners
}

fn listeners() -> Vec<Listener> {
    let of = |protocol, transport| {
        banger_sys::listeners(protocol).into_iter().map(move |socket| (transport, socket))
    };
    let tcp = of(SocketProtocol::Tcp, Transport::Tcp);
    let mut sockets: Vec<_> = tcp.chain(of(SocketProtocol::Udp, Transport::Udp)).collect();
    sockets.sort_by_key(|(transport, socket)| (socket.port, *transport, socket.address));
    sockets.truncate(MAX_LISTENERS);
    let owners = banger_sys::owners(sockets.iter().map(|(_, socket)| socket.inode).collect());
    let listener = |(protocol, socket): (Transport, ListeningSocket)| {
        let owner = owners.get(&socket.inode);
        Listener {
            protocol,
            address: socket.address,
            port: socket.port,
            pid: owner.map(|owner| owner.pid),
            process: owner.map(|owner| owner.name.clone()),
            http: false,
        }
    };
    let mut listeners: Vec<_> = sockets.into_iter().map(listener).collect();
    // Several sockets of one process may share a port.
    listeners.dedup();
    listeners
}
