//! Addresses and names inside a VM's namespace, the same for every VM.
//!
//! The IPv4 addresses are from 192.0.0.0/29, which RFC 7335 reserves for a host behind a translator in the same machine:
//! nothing else has them, so they hide no address that a guest may want to reach. Private ranges would. The IPv6
//! addresses are from a prefix of ours (RFC 4193), whose digits spell "banger".

use std::net::{Ipv4Addr, Ipv6Addr};

/// Name of the tap that the VMM opens.
pub const TAP: &str = "tap0";

/// Name of the interface that pasta creates.
pub const UPLINK: &str = "uplink";

/// Name of the guest's interface.
pub const GUEST_INTERFACE: &str = "eth0";

/// Hardware address of the guest's interface: locally administered, then "bang" and a number.
pub const GUEST_MAC: [u8; 6] = [0x02, 0x62, 0x61, 0x6e, 0x67, 0x02];

/// Hardware address of the tap, the guest's gateway.
pub const GATEWAY_MAC: [u8; 6] = [0x02, 0x62, 0x61, 0x6e, 0x67, 0x01];

/// Hardware address of pasta's side of the uplink.
pub const PASTA_MAC: [u8; 6] = [0x02, 0x62, 0x61, 0x6e, 0x67, 0x06];

/// The guest.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 2);

/// The tap: the guest's gateway and DNS resolver.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 1);

/// The namespace's side of the uplink.
pub const UPLINK_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 5);

/// pasta's side of the uplink.
pub const PASTA: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 6);

/// Length of the prefix of both IPv4 links, in bits.
pub const PREFIX: u8 = 30;

/// The guest, for IPv6.
pub const GUEST_V6: Ipv6Addr = Ipv6Addr::new(0xfd62, 0x616e, 0x6765, 0x7201, 0, 0, 0, 2);

/// The tap, for IPv6.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd62, 0x616e, 0x6765, 0x7201, 0, 0, 0, 1);

/// The namespace's side of the uplink, for IPv6.
pub const UPLINK_ADDRESS_V6: Ipv6Addr = Ipv6Addr::new(0xfd62, 0x616e, 0x6765, 0x7202, 0, 0, 0, 5);

/// pasta's side of the uplink, for IPv6.
pub const PASTA_V6: Ipv6Addr = Ipv6Addr::new(0xfd62, 0x616e, 0x6765, 0x7202, 0, 0, 0, 6);

/// Length of the prefix of both IPv6 links, in bits.
pub const PREFIX_V6: u8 = 64;

/// The guest's link-local IPv6 address, which its kernel derives from [`GUEST_MAC`] (RFC 4291, appendix A).
pub const GUEST_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x0062, 0x61ff, 0xfe6e, 0x6702);

/// Returns a hardware address as text.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_local_address_is_what_a_kernel_derives() {
        let [a, b, c, d, e, f] = GUEST_MAC;
        let derived = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f];
        assert_eq!(GUEST_LINK_LOCAL, Ipv6Addr::from(derived));
        assert_eq!(mac_text(GUEST_MAC), "02:62:61:6e:67:02");
    }
}
