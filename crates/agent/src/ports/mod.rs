//! Lists the guest's listeners with their processes, and detects which speak HTTP.

mod http;
mod owners;
mod table;

use std::{fs::File, io::Read};

use banger_proto::{Listener, Transport};
use tokio::task::spawn_blocking;

use table::Socket;

/// Maximum number of listeners in a report.
const MAX_LISTENERS: usize = 1000;

/// Maximum size of a kernel table to read, in bytes: about 25 000 sockets.
const MAX_TABLE: u64 = 4 << 20;

/// The kernel's socket tables and their protocols.
const TABLES: [(&str, Transport); 4] = [
    ("/proc/net/tcp", Transport::Tcp),
    ("/proc/net/tcp6", Transport::Tcp),
    ("/proc/net/udp", Transport::Udp),
    ("/proc/net/udp6", Transport::Udp),
];

/// Returns all listeners, sorted by port.
pub(crate) async fn ports() -> Vec<Listener> {
    // A guest may have many processes with many files: other connections continue meanwhile.
    let mut listeners = spawn_blocking(listeners).await.unwrap_or_default();
    http::probe_all(&mut listeners).await;
    listeners
}

fn listeners() -> Vec<Listener> {
    let mut sockets: Vec<(Transport, Socket)> = Vec::new();
    for (path, protocol) in TABLES {
        sockets.extend(table::listening(&read(path), protocol).map(|socket| (protocol, socket)));
    }
    sockets.sort_by_key(|(protocol, socket)| (socket.port, *protocol, socket.address));
    sockets.truncate(MAX_LISTENERS);
    let owners = owners::find(sockets.iter().map(|(_, socket)| socket.inode).collect());
    let listener = |(protocol, socket): (Transport, Socket)| {
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

fn read(path: &str) -> String {
    let mut bytes = Vec::new();
    // A kernel without IPv6 has no such table.
    let _ = File::open(path).map(|file| file.take(MAX_TABLE).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}
