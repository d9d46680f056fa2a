//! The host's own addresses, which no guest reaches, and its routes, whatever the host's network does.

use std::io;

use banger_sys::{Watched, netlink::Route};
use rustix::{
    io::Errno,
    net::{RecvFlags, recv},
};

use super::state::{HostNetwork, State};

/// Returns the host's addresses and routes.
fn read(route: &mut Route) -> io::Result<HostNetwork> {
    let (mut addresses, mut routes) = (route.addresses()?, route.destinations()?);
    addresses.sort_unstable();
    addresses.dedup();
    routes.sort_unstable();
    routes.dedup();
    Ok(HostNetwork { addresses, routes })
}

/// Returns whether the host has no default route. If the kernel does not say so, it has one.
pub fn is_offline() -> bool {
    let routes = Route::open().and_then(|mut route| route.destinations());
    routes.is_ok_and(|routes| routes.iter().all(|(_, prefix)| *prefix != 0))
}

/// Reports the network of the host now, and whenever it changes.
pub(super) async fn watch(mut route: Route, changes: Watched, state: &State) -> io::Result<()> {
    loop {
        state.set_host(read(&mut route)?).await;
        changes.readable().await?.clear_ready();
        drain(&changes)?;
    }
}

/// Reads all notifications, whose content is read again as a whole. The kernel drops some if there are too many.
fn drain(changes: &Watched) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match recv(changes, &mut buffer, RecvFlags::empty()) {
            Ok(_) | Err(Errno::INTR | Errno::NOBUFS) => {}
            Err(Errno::AGAIN) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
