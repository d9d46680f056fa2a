//! Packets that rules log (nfnetlink_log).

use std::{io, os::fd::OwnedFd};

use rustix::net::netlink;

use super::{
    message::{attribute, attributes, messages},
    socket::Socket,
};

// Constants from linux/netfilter/nfnetlink.h and linux/netfilter/nfnetlink_log.h.
const LOG: u16 = 4 << 8;
const PACKET: u16 = LOG;
const CONFIGURE: u16 = LOG | 1;
const COMMAND: u16 = 1;
const MODE: u16 = 2;
const QUEUE_THRESHOLD: u16 = 5;
const BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
const PAYLOAD: u16 = 9;
const PREFIX: u16 = 10;

/// Length of the fixed part of a message, in bytes: family, version, and group.
const HEADER: usize = 4;

/// A socket that receives the packets that rules of its namespace log with one group's number.
#[derive(Debug)]
pub struct PacketLog(Socket);

/// A packet that a rule has logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoggedPacket<'a> {
    /// The rule's prefix.
    pub prefix: &'a str,
    /// The packet's first bytes, from its IP header on. A guest has chosen them.
    pub packet: &'a [u8],
}

impl PacketLog {
    /// Subscribes to the packets of `group`, and to their first `length` bytes. Needs `CAP_NET_ADMIN` in the namespace.
    ///
    /// # Errors
    /// Returns an error if the kernel has no such log, or the group has a subscriber.
    pub fn subscribe(group: u16, length: u32) -> io::Result<Self> {
        let mut log = Self(Socket::open(Some(netlink::NETFILTER))?);
        log.configure(group, COMMAND, &[BIND])?;
        let [a, b, c, d] = length.to_be_bytes();
        log.configure(group, MODE, &[a, b, c, d, COPY_PACKET, 0])?;
        // Each packet at once: by default the kernel collects them for a second.
        log.configure(group, QUEUE_THRESHOLD, &1_u32.to_be_bytes())?;
        Ok(log)
    }

    fn configure(&mut self, group: u16, attribute_kind: u16, value: &[u8]) -> io::Result<()> {
        let [high, low] = group.to_be_bytes();
        let mut body = vec![0, 0, high, low];
        attribute(&mut body, attribute_kind, value);
        self.0.change(CONFIGURE, 0, &body)
    }
}

impl From<PacketLog> for OwnedFd {
    fn from(log: PacketLog) -> Self {
        log.0.into()
    }
}

/// Splits what a [`PacketLog`]'s socket has received into packets.
pub fn logged_packets(bytes: &[u8]) -> impl Iterator<Item = LoggedPacket<'_>> {
    messages(bytes).filter(|message| message.kind == PACKET).filter_map(|message| {
        let found = message.body.get(HEADER..)?;
        let value = |wanted| attributes(found).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        let prefix = std::str::from_utf8(value(PREFIX)?).ok()?.trim_end_matches('\0');
        Some(LoggedPacket { prefix, packet: value(PAYLOAD)? })
    })
}

#[cfg(test)]
mod tests {
    use super::{super::message::request, *};

    #[test]
    fn packets_are_found_with_their_prefixes() {
        let mut body = vec![2, 0, 0, 1];
        attribute(&mut body, 1, &[8, 0, 3, 0]);
        attribute(&mut body, PREFIX, b"refused\0");
        attribute(&mut body, PAYLOAD, b"E\0");
        let mut bytes = request(PACKET, 0, 0, &body).unwrap();
        bytes.extend(request(CONFIGURE, 0, 0, &body).unwrap());
        bytes.extend(request(PACKET, 0, 0, &body[..16]).unwrap());
        let found: Vec<_> = logged_packets(&bytes).collect();
        assert_eq!(found, [LoggedPacket { prefix: "refused", packet: b"E\0" }]);
    }
}
