//! The guest's network interface, over netlink.

use std::net::{IpAddr, Ipv4Addr};

use banger_proto::{FailureKind, NetworkConfig};
use rtnetlink::{Error, Handle, LinkUnspec, RouteMessageBuilder, new_connection};

use crate::failure::Failure;

/// Brings loopback up, which programs count on even where there is no network; and, where there is one, its interface
/// with addresses and default route.
pub(super) async fn apply(wanted: Option<&NetworkConfig>) -> Result<(), Failure> {
    let (connection, handle, _) = new_connection().map_err(Failure::io("use netlink"))?;
    let connection = tokio::task::spawn_local(connection);
    let result = set_up(&handle, wanted).await;
    connection.abort();
    result
}

async fn set_up(handle: &Handle, wanted: Option<&NetworkConfig>) -> Result<(), Failure> {
    if let Some(loopback) = index("lo") {
        let up = LinkUnspec::new_with_index(loopback).up().build();
        handle.link().change(up).execute().await.map_err(failed("bring up lo"))?;
    }
    let Some(wanted) = wanted else { return Ok(()) };
    let name = &wanted.interface;
    let interface = index(name).ok_or_else(|| {
        Failure::new(
            FailureKind::NotFound,
            format!("the guest has no network interface {name}: its kernel may lack virtio_net"),
        )
    })?;
    let mut up = LinkUnspec::new_with_index(interface).up();
    if let Some(mtu) = wanted.mtu {
        up = up.mtu(mtu);
    }
    handle.link().change(up.build()).execute().await.map_err(failed(&format!("bring up {name}")))?;
    for address in &wanted.addresses {
        let add = handle.address().add(interface, IpAddr::V4(address.address), address.prefix).replace();
        add.execute().await.map_err(failed(&format!("give {name} the address {}", address.address)))?;
    }
    if let Some(gateway) = wanted.gateway {
        let route =
            RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).output_interface(interface).build();
        let add = handle.route().add(route).replace();
        add.execute().await.map_err(failed(&format!("route through {gateway}")))?;
    }
    Ok(())
}

/// The interface's number in the kernel.
fn index(name: &str) -> Option<u32> {
    let plain = !name.is_empty() && !name.contains('/') && !name.starts_with('.');
    let index = plain.then(|| std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex")))?;
    index.ok()?.trim().parse().ok()
}

fn failed(what: &str) -> impl FnOnce(Error) -> Failure {
    move |error| Failure::new(FailureKind::Internal, format!("cannot {what}: {error}"))
}
