//! The guest's network interface.

use banger_proto::{FailureKind, NetworkConfig};

use super::netlink::Netlink;
use crate::failure::Failure;

/// Brings up loopback and the interface in `config`, with its addresses and default route. Programs rely on loopback
/// even without a network.
pub(super) fn apply(config: Option<&NetworkConfig>) -> Result<(), Failure> {
    let mut netlink = Netlink::open().map_err(Failure::io("use netlink"))?;
    if let Some(loopback) = netlink.interface("lo").map_err(Failure::io("find interface lo"))? {
        netlink.bring_up(loopback, None).map_err(Failure::io("bring up lo"))?;
    }
    let Some(config) = config else { return Ok(()) };
    let name = &config.interface;
    let interface = netlink.interface(name).map_err(Failure::io(format_args!("find interface {name}")))?;
    let interface = interface.ok_or_else(|| {
        Failure::new(
            FailureKind::NotFound,
            format!("the guest has no network interface {name}: its kernel may lack virtio_net"),
        )
    })?;
    netlink.bring_up(interface, config.mtu).map_err(Failure::io(format_args!("bring up {name}")))?;
    for address in &config.addresses {
        let action = format_args!("add address {} to {name}", address.address);
        netlink.add_address(interface, address.address, address.prefix).map_err(Failure::io(action))?;
    }
    if let Some(gateway) = config.gateway {
        let action = format_args!("route through {gateway}");
        netlink.set_default_route(interface, gateway).map_err(Failure::io(action))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{env, process::Command};

    use banger_proto::{AddressConfig, Reply};

    use super::*;

    fn ip(arguments: &[&str]) -> String {
        let output = Command::new("ip").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
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
