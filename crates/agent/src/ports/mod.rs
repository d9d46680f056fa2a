//! What listens in the guest, whose it is, and whether it speaks HTTP.

mod http;
mod owners;
mod table;

use std::{fs::File, io::Read};

use banger_proto::{Listener, Transport};
use tokio::task::spawn_blocking;

use table::Socket;

/// Most listeners that are told of.
const LISTENERS: usize = 1000;

/// Most bytes of a table of the kernel's: some 25 000 sockets.
const TABLE: u64 = 4 << 20;

/// The kernel's tables, and what they are of.
const TABLES: [(&str, Transport); 4] = [
    ("/proc/net/tcp", Transport::Tcp),
    ("/proc/net/tcp6", Transport::Tcp),
    ("/proc/net/udp", Transport::Udp),
    ("/proc/net/udp6", Transport::Udp),
];

/// What listens, in order of port.
pub(crate) async fn ports() -> Vec<Listener> {
    // A guest may have many processes with many files: others' connections go on meanwhile.
    let mut listeners = spawn_blocking(listeners).await.unwrap_or_default();
    http::ask_all(&mut listeners).await;
    listeners
}

fn listeners() -> Vec<Listener> {
    let mut sockets: Vec<(Transport, Socket)> = Vec::new();
    for (path, protocol) in TABLES {
        sockets.extend(table::listening(&read(path), protocol).map(|socket| (protocol, socket)));
    }
    sockets.sort_by_key(|(protocol, socket)| (socket.port, *protocol, socket.address));
    sockets.truncate(LISTENERS);
    let owners = owners::of(sockets.iter().map(|(_, socket)| socket.inode).collect());
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
    let _ = File::open(path).map(|file| file.take(TABLE).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}
