//! Parses the kernel's socket tables, such as `/proc/net/tcp` (proc(5), and `get_tcp4_sock` in
//! `net/ipv4/tcp_ipv4.c`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Transport protocol of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SocketProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A listening socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListeningSocket {
    /// Address at which it listens; unspecified for all addresses.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Inode number, which also identifies the socket in its processes' descriptors.
    pub inode: u64,
}

/// `TCP_LISTEN` of `include/net/tcp_states.h`.
const LISTEN: &str = "0A";
/// `TCP_CLOSE`: the state of a datagram socket without a peer.
const UNCONNECTED: &str = "07";

/// Returns the listening sockets in `table`. Skips malformed lines.
pub(super) fn listening(table: &str, protocol: SocketProtocol) -> impl Iterator<Item = ListeningSocket> {
    let state = match protocol {
        SocketProtocol::Tcp => LISTEN,
        SocketProtocol::Udp => UNCONNECTED,
    };
    table.lines().skip(1).filter_map(move |line| socket(line, state))
}

/// Columns: number, local address, remote address, state, queues, timer, retransmits, user, timeout, inode.
fn socket(line: &str, expected_state: &str) -> Option<ListeningSocket> {
    let mut columns = line.split_ascii_whitespace();
    let local = columns.nth(1)?;
    let state = columns.nth(1)?;
    if state != expected_state {
        return None;
    }
    let inode = columns.nth(5)?.parse().ok()?;
    let (address, port) = local.split_once(':')?;
    Some(ListeningSocket { address: ip(address)?, port: u16::from_str_radix(port, 16).ok()?, inode })
}

/// Parses words of 32 bits, each in this machine's byte order.
fn ip(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (at, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(at)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12345 1 0000000000000000 100 0 0 10 0
   1: 0F02000A:0016 0202000A:9C40 01 00000000:00000000 02:000A6D54 00000000     0        0 777 2 0000000000000000 20 4 30 10 -1
   2: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 99 1
";
    const TCP6: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 5 1
";
    const UDP: &str = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  331: 0F02000A:0044 0202000A:0043 01 00000000:00000000 00:00000000 00000000     0        0 15 2 0000000000000000 0
  459: 00000000:14E9 00000000:0000 07 00000000:00000000 00:00000000 00000000   101        0 16 2 0000000000000000 0
";

    #[test]
    fn listeners_are_parsed_and_connections_are_skipped() {
        let parsed = |table, protocol| {
            listening(table, protocol)
                .map(|socket| format!("{} {} {}", socket.address, socket.port, socket.inode))
                .collect::<Vec<_>>()
        };
        assert_eq!(parsed(TCP, SocketProtocol::Tcp), ["127.0.0.1 8080 12345", "0.0.0.0 80 99"]);
        assert_eq!(parsed(TCP6, SocketProtocol::Tcp), ["::1 8080 5"]);
        assert_eq!(parsed(UDP, SocketProtocol::Udp), ["0.0.0.0 5353 16"]);
    }

    #[test]
    fn malformed_lines_are_skipped() {
        for line in [
            "",
            ":",
            "0: 0100007F:1F90 00000000:0000 0A",
            "0: 0100007F 00000000:0000 0A 0:0 00:0 0 0 0 1",
            "0: 0100007F:FFFFF 00000000:0000 0A 0:0 00:0 0 0 0 1",
            "0: é00007F:1F90 00000000:0000 0A 0:0 00:0 0 0 0 1",
            "0: 0100007:1F90 00000000:0000 0A 0:0 00:0 0 0 0 1",
            "0: 0100007F:1F90 00000000:0000 0A 0:0 00:0 0 0 0 x",
            "0: 0100007F:1F90 00000000:0000 0A 0:0 00:0 0 0 0 99999999999999999999999",
        ] {
            assert_eq!(listening(&format!("heading\n{line}\n"), SocketProtocol::Tcp).count(), 0, "{line}");
        }
    }
}
