//! Interfaces, addresses and routes of the namespace.

use std::{fs, io};

use banger_sys::{
    create_tap,
    netlink::{LinkChanges, Route},
};

use crate::addresses::{
    GATEWAY, GATEWAY_MAC, GATEWAY_V6, GUEST, GUEST_MAC, GUEST_V6, PASTA, PASTA_MAC, PASTA_V6, PREFIX,
    PREFIX_V6, TAP, UPLINK, UPLINK_ADDRESS, UPLINK_ADDRESS_V6,
};

/// Kernel settings without which the network does not work, or is not safe. With filters of reverse paths, a packet's
/// source is an address of its link, so that a guest cannot fill the table of neighbours that the host shares.
const REQUIRED: [(&str, &str); 3] =
    [("ipv4/ip_forward", "1"), ("ipv4/conf/all/rp_filter", "1"), ("ipv4/conf/default/rp_filter", "1")];

/// Kernel settings for IPv6, which a kernel may lack.
const IPV6: [(&str, &str); 3] = [
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv6/conf/all/accept_ra", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
];

/// Kernel settings that older kernels do not have in a namespace: every refused packet is answered.
const WANTED: [(&str, &str); 2] = [("ipv4/icmp_ratelimit", "0"), ("ipv6/icmp/ratelimit", "0")];

/// Maximum number of packets that wait for pasta: a guest's segment of 64 KiB becomes 45 of them, and eight connections
/// with windows of 1 MiB fill no more than this. The kernel's default, 1000, loses packets of fewer.
const UPLINK_QUEUE: u32 = 8192;

/// Creates the tap, and gives it and pasta's interface their addresses and routes. The rules must be applied before.
/// Returns whether there is IPv6.
pub(super) fn create(mtu: u32) -> io::Result<bool> {
    for (name, value) in REQUIRED {
        set(name, value)?;
    }
    for (name, value) in WANTED {
        // The kernel's own limit then applies.
        let _ = set(name, value);
    }
    let ipv6 = IPV6.iter().all(|(name, value)| set(name, value).is_ok());
    let mut route = Route::open()?;
    create_tap(TAP).map_err(during("create a tap with /dev/net/tun"))?;
    let index = |route: &Route, name: &str| {
        route.interface(name)?.ok_or_else(|| io::Error::other(format!("there is no interface {name}")))
    };
    let (lo, uplink, tap) = (index(&route, "lo")?, index(&route, UPLINK)?, index(&route, TAP)?);
    route.bring_up(lo, LinkChanges::default())?;
    let changes = LinkChanges { mtu: Some(mtu), ..LinkChanges::default() };
    route.bring_up(uplink, LinkChanges { queue: Some(UPLINK_QUEUE), ..changes })?;
    route.bring_up(tap, LinkChanges { mac: Some(GATEWAY_MAC), ..changes })?;
    route.add_address(uplink, UPLINK_ADDRESS.into(), PREFIX)?;
    route.add_address(tap, GATEWAY.into(), PREFIX)?;
    route.add_neighbour(uplink, PASTA.into(), PASTA_MAC)?;
    route.add_neighbour(tap, GUEST.into(), GUEST_MAC)?;
    route.set_default_route(uplink, PASTA.into())?;
    let add_ipv6 = |route: &mut Route| {
        route.add_address(uplink, UPLINK_ADDRESS_V6.into(), PREFIX_V6)?;
        route.add_address(tap, GATEWAY_V6.into(), PREFIX_V6)?;
        route.add_neighbour(uplink, PASTA_V6.into(), PASTA_MAC)?;
        route.add_neighbour(tap, GUEST_V6.into(), GUEST_MAC)?;
        route.set_default_route(uplink, PASTA_V6.into())
    };
    // A kernel may refuse IPv6 although it has the settings.
    Ok(ipv6 && add_ipv6(&mut route).is_ok())
}

/// Writes a setting below `/proc/sys/net`.
fn set(name: &str, value: &str) -> io::Result<()> {
    let path = format!("/proc/sys/net/{name}");
    fs::write(&path, value).map_err(during(&format!("write {path}")))
}

fn during(action: &str) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("cannot {action}: {error}"))
}
