//! An entry of the table, as the program in the kernel writes it.

use std::net::{IpAddr, Ipv6Addr};

use crate::SocketProtocol;

/// A destination and the process that used it last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Protocol of the socket.
    pub protocol: SocketProtocol,
    /// Address of the destination.
    pub address: IpAddr,
    /// Port of the destination.
    pub port: u16,
    /// Process id.
    pub pid: u32,
    /// Name of the thread that asked, which it may choose itself.
    pub name: String,
}

/// Key of the table, as the program writes it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Key {
    /// IPv6 address, or an IPv4 address mapped to one.
    pub(super) address: [u8; 16],
    /// Port in the order of the network, in the first two bytes.
    pub(super) port: [u8; 4],
    /// Number of the IP protocol.
    pub(super) protocol: u32,
}

/// Value of the table, as the program writes it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Value {
    /// Nanoseconds of the monotonic clock.
    pub(super) time: u64,
    /// Name of the thread, ended by a zero.
    pub(super) name: [u8; 16],
    pub(super) pid: u64,
}

/// Returns the connection of an entry; `None` if its protocol has no ports.
pub(super) fn connection(key: &Key, value: &Value) -> Option<Connection> {
    let protocol = match i32::try_from(key.protocol).ok()? {
        libc::IPPROTO_TCP => SocketProtocol::Tcp,
        libc::IPPROTO_UDP => SocketProtocol::Udp,
        _ => return None,
    };
    let [high, low, ..] = key.port;
    let name = value.name.split(|byte| *byte == 0).next().unwrap_or_default();
    Some(Connection {
        protocol,
        address: Ipv6Addr::from(key.address).to_canonical(),
        port: u16::from_be_bytes([high, low]),
        pid: u32::try_from(value.pid).ok()?,
        name: String::from_utf8_lossy(name).into_owned(),
    })
}
