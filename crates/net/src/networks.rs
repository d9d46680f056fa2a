//! Networks that policies refuse.

use std::{net::IpAddr, sync::LazyLock};

use banger_api::Network;

/// IPv4 destinations that no policy allows: this host (RFC 1122), loopback, link-local with most clouds' metadata,
/// 192.0.0.0/24 with the namespace's own links and Oracle's metadata, Azure's and Alibaba's metadata, multicast, and
/// reserved addresses with the broadcast address (RFC 6890).
pub(crate) const NEVER: &str = "0.0.0.0/8, 100.100.100.200, 127.0.0.0/8, 168.63.129.16, 169.254.0.0/16, 192.0.0.0/24, \
     224.0.0.0/3";

/// IPv6 destinations that no policy allows: unspecified and loopback, IPv4 addresses written as IPv6 ones, translated
/// forms (RFC 6052) of loopback and link-local, 6to4 (RFC 7526), the metadata of Amazon, Google and Scaleway, the
/// namespace's own links, link-local, site-local and multicast.
pub(crate) const NEVER_V6: &str = "::/96, ::ffff:0:0/96, 64:ff9b::/104, 64:ff9b::7f00:0/104, 64:ff9b::a9fe:0/112, \
     2002::/16, fd00:42::42, fd00:ec2::254, fd20:ce::254, fd62:616e:6765:7200::/56, fe80::/9, ff00::/8";

/// Private IPv4 networks (RFC 1918), shared address space (RFC 6598), and networks for benchmarks (RFC 2544).
pub(crate) const PRIVATE: &str = "10.0.0.0/8, 100.64.0.0/10, 172.16.0.0/12, 192.168.0.0/16, 198.18.0.0/15";

/// Private IPv6 networks (RFC 4193), and translated forms of the private IPv4 networks.
pub(crate) const PRIVATE_V6: &str = "64:ff9b::a00:0/104, 64:ff9b::6440:0/106, 64:ff9b::ac10:0/108, 64:ff9b::c0a8:0/112, \
     64:ff9b::c612:0/111, fc00::/7";

static REFUSED: LazyLock<Vec<Network>> = LazyLock::new(|| {
    let all = [NEVER, NEVER_V6, PRIVATE, PRIVATE_V6].join(", ");
    // A test parses them all.
    all.split(", ").filter_map(|network| network.trim().parse().ok()).collect()
});

/// Returns whether an address is private, or no policy allows it: a public name has none of these.
pub(crate) fn is_refused(address: IpAddr) -> bool {
    REFUSED.iter().any(|network| network.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_networks_are_parsed() {
        let all = [NEVER, NEVER_V6, PRIVATE, PRIVATE_V6].map(|text| text.split(", ").count());
        assert_eq!(REFUSED.len(), all.iter().sum::<usize>());
        for address in
            ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "fe80::1", "fd00::1", "::ffff:8.8.8.8"]
        {
            assert!(is_refused(address.parse().unwrap()), "{address}");
        }
        for address in ["8.8.8.8", "203.0.113.80", "2001:db8::1"] {
            assert!(!is_refused(address.parse().unwrap()), "{address}");
        }
    }
}
