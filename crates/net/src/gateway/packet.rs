//! The headers of packets, as bytes that a guest has chosen (RFC 791, RFC 8200). Nothing here does I/O.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use banger_api::FlowProtocol;

/// Lengths of IP headers, in bytes; that of IPv4 is its shortest.
const HEADER_V4: usize = 20;
const HEADER_V6: usize = 40;

// Protocols (IANA).
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP_V6: u8 = 58;

/// Where a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Target {
    pub(super) protocol: FlowProtocol,
    pub(super) address: IpAddr,
    /// Of TCP and UDP.
    pub(super) port: Option<u16>,
}

/// Returns where a packet goes; `None` if it has no complete IP header.
pub(super) fn target(packet: &[u8]) -> Option<Target> {
    let first = *packet.first()?;
    let (protocol, address, rest): (u8, IpAddr, _) = match first >> 4 {
        4 => {
            let header = packet.first_chunk::<HEADER_V4>()?;
            let address: [u8; 4] = *header.last_chunk()?;
            let words = usize::from(first & 0xf).max(HEADER_V4 / 4);
            (*header.get(9)?, Ipv4Addr::from(address).into(), packet.get(words * 4..))
        }
        6 => {
            let header = packet.first_chunk::<HEADER_V6>()?;
            let address: [u8; 16] = *header.last_chunk()?;
            // Behind extension headers, which no program sends by itself, the protocol is another one.
            (*header.get(6)?, Ipv6Addr::from(address).into(), packet.get(HEADER_V6..))
        }
        _ => return None,
    };
    // The source's port is before it.
    let port = || Some(u16::from_be_bytes(*rest?.get(2..)?.first_chunk()?));
    Some(match protocol {
        TCP => Target { protocol: FlowProtocol::Tcp, address, port: port() },
        UDP => Target { protocol: FlowProtocol::Udp, address, port: port() },
        ICMP | ICMP_V6 => Target { protocol: FlowProtocol::Icmp, address, port: None },
        _ => Target { protocol: FlowProtocol::Other, address, port: None },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v4(protocol: u8, rest: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x46, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 192, 0, 0, 2, 203, 0, 113, 1];
        packet.extend([1, 1, 1, 1]);
        packet.extend(rest);
        packet
    }

    #[test]
    fn the_destination_of_a_packet_is_found() {
        let found = target(&v4(6, &[0x80, 0, 1, 187])).unwrap();
        let address = "203.0.113.1".parse().unwrap();
        assert_eq!(found, Target { protocol: FlowProtocol::Tcp, address, port: Some(443) });
        assert_eq!(target(&v4(17, &[0, 1, 0])).unwrap().port, None);
        assert_eq!(target(&v4(1, &[])).unwrap().protocol, FlowProtocol::Icmp);
        let mut v6 = vec![0x60, 0, 0, 0, 0, 8, 17, 64];
        v6.extend([0; 16]);
        v6.extend(Ipv6Addr::LOCALHOST.octets());
        v6.extend([0, 1, 0, 53]);
        let found = target(&v6).unwrap();
        let address = Ipv6Addr::LOCALHOST.into();
        assert_eq!(found, Target { protocol: FlowProtocol::Udp, address, port: Some(53) });
        assert_eq!(target(&v6[..39]), None);
        assert_eq!(target(&[]), None);
    }

    proptest! {
        #[test]
        fn no_packet_is_too_strange(packet in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = target(&packet);
        }
    }
}
