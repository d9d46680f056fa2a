//! This machine's listening sockets and the processes that have them open, from `/proc`.

mod owners;
mod table;

use std::{fs::File, io::Read};

pub use owners::{Owner, owners};
pub use table::{ListeningSocket, SocketProtocol};

/// Maximum size of a kernel table to read, in bytes: about 25 000 sockets.
const MAX_TABLE: u64 = 4 << 20;

/// Returns the listening sockets of a protocol, of IPv4 and of IPv6.
pub fn listeners(protocol: SocketProtocol) -> Vec<ListeningSocket> {
    let tables = match protocol {
        SocketProtocol::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
        SocketProtocol::Udp => ["/proc/net/udp", "/proc/net/udp6"],
    };
    tables.iter().flat_map(|path| table::listening(&read(path), protocol).collect::<Vec<_>>()).collect()
}

fn read(path: &str) -> String {
    let mut bytes = Vec::new();
    // A kernel without IPv6 has no such table.
    let _ = File::open(path).map(|file| file.take(MAX_TABLE).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}
