//! The host's resolvers, from its `/etc/resolv.conf`, which changes with the host's network.

use std::{
    fs,
    io::{self, Read},
    net::{IpAddr, SocketAddr, SocketAddrV6},
    os::unix::fs::MetadataExt,
    sync::{Mutex, PoisonError},
};

use banger_api::DomainName;
use rustix::net::{AddressFamily, SocketType, netdevice::name_to_index, socket};

const FILE: &str = "/etc/resolv.conf";

/// Maximum number of bytes that are read of the file.
const MAX_FILE: u64 = 64 << 10;

/// Maximum number of resolvers: that of the C library (`MAXNS` of resolv.h).
const MAX_SERVERS: usize = 3;

/// Maximum number of search domains: that of the C library before 2.26.
const MAX_DOMAINS: usize = 6;

/// The port of DNS.
const DNS: u16 = 53;

/// Identity of the file: device, inode, change time in seconds and nanoseconds.
type Identity = (u64, u64, i64, i64);

/// The resolvers, read again when the file has changed.
#[derive(Debug, Default)]
pub(super) struct Resolvers(Mutex<Option<(Identity, Vec<SocketAddr>)>>);

impl Resolvers {
    /// Returns the resolvers in the file's order; none if it cannot be read, as on a host that is offline.
    pub(super) fn current(&self) -> Vec<SocketAddr> {
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let identity =
            fs::metadata(FILE).map(|meta| (meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec()));
        let Ok(identity) = identity else { return Vec::new() };
        match &*cached {
            Some((known, servers)) if *known == identity => servers.clone(),
            _ => {
                let servers = parse(&read().unwrap_or_default());
                *cached = Some((identity, servers.clone()));
                servers
            }
        }
    }
}

fn read() -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(FILE)?.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

/// Returns the host's search domains, which its users leave out of names.
pub fn search_domains() -> Vec<String> {
    domains(&read().unwrap_or_default())
}

/// Returns the domains of the last line with some, as the C library does. The dot of systemd-resolved means none.
fn domains(text: &str) -> Vec<String> {
    let mut lines = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        matches!(words.next(), Some("search" | "domain")).then_some(words)
    });
    let last = lines.next_back().into_iter().flatten();
    last.filter_map(|word| DomainName::parse(word).ok())
        .take(MAX_DOMAINS)
        .map(|name| name.as_str().to_owned())
        .collect()
}

/// Returns the resolvers in a text of the format of resolv.conf(5).
fn parse(text: &str) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next())?
    });
    servers.filter_map(address).take(MAX_SERVERS).collect()
}

/// Returns the address of a resolver. A link-local one has the name of its interface: `fe80::1%eth0`.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, interface) = text.split_once('%').map_or((text, None), |(a, name)| (a, Some(name)));
    match (address.parse().ok()?, interface) {
        (IpAddr::V6(address), Some(interface)) => {
            let index = interface.parse().ok().or_else(|| index_of(interface))?;
            Some(SocketAddrV6::new(address, DNS, 0, index).into())
        }
        (address, _) => Some(SocketAddr::new(address, DNS)),
    }
}

fn index_of(interface: &str) -> Option<u32> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None).ok()?;
    name_to_index(socket, interface).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_those_that_the_c_library_uses() {
        let text = "# comment\nsearch corp.example\nnameserver 127.0.0.53\n nameserver 2001:db8::1\nnameserver x\n\
                    nameserver\nnameserver fe80::1%lo\nnameserver 9.9.9.9\noptions edns0\n";
        let servers: Vec<_> = parse(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["127.0.0.53:53", "[2001:db8::1]:53", "[fe80::1%1]:53"]);
        assert!(parse("").is_empty());
        assert_eq!(
            domains("domain a.example\nsearch corp.example. b.example a..b\n"),
            ["corp.example", "b.example"]
        );
        assert!(domains("search .\n").is_empty() && domains("").is_empty());
    }
}
