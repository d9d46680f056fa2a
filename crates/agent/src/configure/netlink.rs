//! Changes network interfaces: sends requests to the kernel over rtnetlink, each with an acknowledgement.

use std::{io, net::Ipv4Addr, os::fd::OwnedFd};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netdevice::name_to_index, recv, send,
        socket_with,
    },
};

// Constants from linux/netlink.h, linux/rtnetlink.h, linux/if_link.h and linux/if_addr.h.
const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const ERROR: u16 = 2;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const REPLACE: u16 = 0x100;
const CREATE: u16 = 0x400;
const LINK_MTU: u16 = 4;
const ADDRESS: u16 = 1;
const LOCAL_ADDRESS: u16 = 2;
const BROADCAST_ADDRESS: u16 = 4;
const ROUTE_INTERFACE: u16 = 4;
const ROUTE_GATEWAY: u16 = 5;
const INTERFACE_UP: u32 = 1;
const IPV4: u8 = 2;
const MAIN_TABLE: u8 = 254;
const STATIC_ROUTE: u8 = 4;
const UNICAST: u8 = 1;

/// Length of a message's header, in bytes.
const HEADER_LEN: usize = 16;

/// A socket to the kernel's network configuration.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        // NETLINK_ROUTE is protocol 0, the default.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Returns an interface's index, or `None` if there is no interface with this name.
    pub(super) fn interface(&self, name: &str) -> io::Result<Option<u32>> {
        match name_to_index(&self.socket, name) {
            Ok(index) => Ok(Some(index)),
            Err(Errno::NODEV) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Brings an interface up, and sets its MTU if `mtu` is given.
    pub(super) fn bring_up(&mut self, interface: u32, mtu: Option<u32>) -> io::Result<()> {
        let mut body = vec![0; 4];
        for word in [interface, INTERFACE_UP, INTERFACE_UP] {
            body.extend(word.to_ne_bytes());
        }
        if let Some(mtu) = mtu {
            attribute(&mut body, LINK_MTU, mtu.to_ne_bytes());
        }
        self.request(NEW_LINK, 0, &body)
    }

    /// Adds an address to an interface.
    pub(super) fn add_address(&mut self, interface: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let mut body = vec![IPV4, prefix, 0, 0];
        body.extend(interface.to_ne_bytes());
        attribute(&mut body, LOCAL_ADDRESS, address.octets());
        attribute(&mut body, ADDRESS, address.octets());
        let hosts = u32::MAX.checked_shr(prefix.into()).unwrap_or_default();
        let broadcast = Ipv4Addr::from_bits(address.to_bits() | hosts);
        attribute(&mut body, BROADCAST_ADDRESS, broadcast.octets());
        self.request(NEW_ADDRESS, REPLACE | CREATE, &body)
    }

    /// Makes `gateway` the default route.
    pub(super) fn set_default_route(&mut self, interface: u32, gateway: Ipv4Addr) -> io::Result<()> {
        // Destination and source prefixes have 0 bits, the scope is 0: everywhere.
        let mut body = vec![IPV4, 0, 0, 0, MAIN_TABLE, STATIC_ROUTE, 0, UNICAST, 0, 0, 0, 0];
        attribute(&mut body, ROUTE_INTERFACE, interface.to_ne_bytes());
        attribute(&mut body, ROUTE_GATEWAY, gateway.octets());
        self.request(NEW_ROUTE, REPLACE | CREATE, &body)
    }

    /// Sends a request and checks the reply. The kernel replies before the send returns, so this does not block.
    fn request(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.sequence += 1;
        let length = u32::try_from(HEADER_LEN + body.len()).map_err(io::Error::other)?;
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend((flags | REQUEST | ACK).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0u32.to_ne_bytes()); // the kernel knows the sender
        message.extend(body);
        send(&self.socket, &message, SendFlags::empty())?;

        let mut reply = [0; 4096];
        let (length, _) = recv(&self.socket, &mut reply, RecvFlags::empty())?;
        acknowledgement(&reply[..length], self.sequence)
    }
}

/// Appends an attribute with a value of 4 bytes, which keeps the next one aligned.
fn attribute(body: &mut Vec<u8>, kind: u16, value: [u8; 4]) {
    body.extend(8u16.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
}

/// Reads the error number in a reply: 0 acknowledges the request.
fn acknowledgement(reply: &[u8], sequence: u32) -> io::Result<()> {
    let word = |at: usize| reply.get(at..).and_then(|bytes| bytes.first_chunk::<4>().copied());
    let kind = reply.get(4..).and_then(|bytes| bytes.first_chunk::<2>().copied());
    let error = word(HEADER_LEN).map(i32::from_ne_bytes);
    match error.filter(|_| kind.map(u16::from_ne_bytes) == Some(ERROR)) {
        Some(error) if word(8).map(u32::from_ne_bytes) == Some(sequence) => match error {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error.saturating_neg())),
        },
        _ => Err(io::Error::other("the kernel's reply is not an acknowledgement")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_parsed_as_acknowledgements_or_errors() {
        let reply = |kind: u16, sequence: u32, error: i32| {
            let mut reply = 20u32.to_ne_bytes().to_vec();
            reply.extend(kind.to_ne_bytes());
            reply.extend([0; 2]);
            reply.extend(sequence.to_ne_bytes());
            reply.extend([0; 4]);
            reply.extend(error.to_ne_bytes());
            reply
        };
        assert!(acknowledgement(&reply(ERROR, 7, 0), 7).is_ok());
        let denied = acknowledgement(&reply(ERROR, 7, -1), 7).unwrap_err();
        assert_eq!(denied.kind(), io::ErrorKind::PermissionDenied);
        assert!(acknowledgement(&reply(ERROR, 6, 0), 7).is_err());
        assert!(acknowledgement(&reply(NEW_LINK, 7, 0), 7).is_err());
        assert!(acknowledgement(&reply(ERROR, 7, 0)[..18], 7).is_err());
        assert!(acknowledgement(&[], 7).is_err());
    }
}
