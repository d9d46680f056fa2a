//! The guest's network interface.

use std::net::IpAddr;

use banger_proto::{FailureKind, NetworkConfig};
use banger_sys::netlink::{LinkChanges, Route};

use super::names::is_name;
use crate::{console::log, failure::Failure};

/// Brings up loopback and the interface in `config`, with its addresses and default routes. Programs rely on loopback
/// even without a network.
pub(super) fn apply(config: Option<&NetworkConfig>) -> Result<(), Failure> {
    let mut route = Route::open().map_err(Failure::io("use netlink"))?;
    if let Some(loopback) = route.interface("lo").map_err(Failure::io("find interface lo"))? {
        route.bring_up(loopback, LinkChanges::default()).map_err(Failure::io("bring up lo"))?;
    }
    let Some(config) = config else { return Ok(()) };
    let name = &config.interface;
    let interface = route.interface(name).map_err(Failure::io(format_args!("find interface {name}")))?;
    let interface = interface.ok_or_else(|| {
        Failure::new(
            FailureKind::NotFound,
            format!("the guest has no network interface {name}: its kernel may lack virtio_net"),
        )
    })?;
    let changes = LinkChanges { mtu: config.mtu, ..LinkChanges::default() };
    route.bring_up(interface, changes).map_err(Failure::io(format_args!("bring up {name}")))?;
    let (v4, v6) = (&config.addresses, &config.addresses_v6);
    let v4 = v4.iter().map(|config| (IpAddr::from(config.address), config.prefix));
    let v6 = v6.iter().map(|config| (IpAddr::from(config.address), config.prefix));
    for (address, prefix) in v4 {
        let action = format_args!("add address {address} to {name}");
        route.add_address(interface, address, prefix).map_err(Failure::io(action))?;
    }
    if let Some(gateway) = config.gateway {
        let action = format_args!("route through {gateway}");
        route.set_default_route(interface, gateway.into()).map_err(Failure::io(action))?;
    }
    // The guest is usable without IPv6, which an image or its kernel may lack.
    let ipv6 = || {
        for (address, prefix) in v6 {
            route.add_address(interface, address, prefix)?;
        }
        config.gateway_v6.map_or(Ok(()), |gateway| route.set_default_route(interface, gateway.into()))
    };
    if let Err(error) = ipv6() {
        log(&format!("cannot set up IPv6 on {name}: {error}"));
    }
    Ok(())
}

/// Returns the content of `/etc/resolv.conf`, or `None` to keep the file.
pub(super) fn resolver(config: &NetworkConfig) -> Option<String> {
    if config.nameservers.is_empty() {
        return None;
    }
    let servers = config.nameservers.iter().map(|server| format!("nameserver {server}\n"));
    let domains: Vec<_> = config.search.iter().filter(|name| is_name(name)).map(String::as_str).collect();
    let search = (!domains.is_empty()).then(|| format!("search {}\n", domains.join(" ")));
    Some(servers.chain(search).collect())
}

#[cfg(test)]
mod tests {
    use std::{env, process::Command};

    use banger_proto::{AddressConfig, AddressV6Config, Reply};

    use super::*;

    fn ip(arguments: &[&str]) -> String {
        let output = Command::new("ip").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn a_resolver_has_its_servers_and_valid_search_domains() {
        let mut config = NetworkConfig {
            interface: "eth0".into(),
            addresses: Vec::new(),
            gateway: None,
            nameservers: Vec::new(),
            mtu: None,
            addresses_v6: Vec::new(),
            gateway_v6: None,
            search: vec!["corp.example".into(), "a b".into(), "x\nnameserver 1.1.1.1".into()],
        };
        assert_eq!(resolver(&config), None);
        config.nameservers = vec![[192, 0, 0, 1].into()];
        assert_eq!(resolver(&config).unwrap(), "nameserver 192.0.0.1\nsearch corp.example\n");
    }

    #[test]
    fn an_interface_gets_its_mtu_its_addresses_and_the_default_route() {
        const INSIDE: &str = "INSIDE_NAMESPACE";
        if env::var_os(INSIDE).is_none() {
            // Run the test again in a new network namespace.
            let mut test = Command::new("unshare");
            test.args(["--map-root-user", "--net", "--"]).arg(env::current_exe().unwrap());
            test.arg("an_interface_gets_its_mtu_its_addresses_and_the_default_route");
            let output = test.env(INSIDE, "1").output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
            return;
        }
        ip(&["link", "add", "net0", "type", "veth", "peer", "name", "peer0"]);
        ip(&["link", "set", "peer0", "up"]);
        let mut config = NetworkConfig {
            interface: "net0".into(),
            addresses: vec![AddressConfig { address: [10, 0, 2, 15].into(), prefix: 24 }],
            gateway: Some([10, 0, 2, 2].into()),
            nameservers: Vec::new(),
            mtu: Some(1400),
            addresses_v6: vec![AddressV6Config { address: "fd00::2".parse().unwrap(), prefix: 64 }],
            gateway_v6: Some("fd00::1".parse().unwrap()),
            search: Vec::new(),
        };
        // Applying the same configuration twice is not an error.
        for _ in 0..2 {
            apply(Some(&config)).unwrap();
            let address = ip(&["-oneline", "-4", "address", "show", "net0"]);
            assert!(address.contains("inet 10.0.2.15/24 brd 10.0.2.255 scope global net0"), "{address}");
            assert_eq!(
                ip(&["route", "show", "default"]).trim(),
                "default via 10.0.2.2 dev net0 proto static"
            );
            let address = ip(&["-oneline", "-6", "address", "show", "net0", "scope", "global"]);
            assert!(address.contains("inet6 fd00::2/64 scope global nodad"), "{address}");
            assert!(ip(&["-6", "route", "show", "default"]).contains("default via fd00::1 dev net0"));
            assert!(ip(&["link", "show", "net0"]).contains("UP,LOWER_UP> mtu 1400"));
            assert!(ip(&["link", "show", "lo"]).contains("UP"));
        }

        config.interface = "net1".into();
        let failure = Reply::from(apply(Some(&config)).unwrap_err());
        assert!(matches!(failure, Reply::Failed { kind: FailureKind::NotFound, .. }), "{failure:?}");
        config.interface = "net0".into();
        config.gateway = Some([192, 0, 2, 1].into());
        let failure = format!("{:?}", apply(Some(&config)).unwrap_err());
        assert!(failure.contains("cannot route through 192.0.2.1: Network is unreachable"), "{failure}");
    }
}
