//! The host's own addresses, which no guest reaches, whatever the host's network does.

use std::io;

use banger_sys::{Watched, netlink::Route};
use rustix::{
    io::Errno,
    net::{RecvFlags, recv},
};

use super::state::State;

/// Reports the addresses of the host now, and whenever they change.
pub(super) async fn watch(mut route: Route, changes: Watched, state: &State) -> io::Result<()> {
    loop {
        let mut addresses = route.addresses()?;
        addresses.sort_unstable();
        addresses.dedup();
        state.set_host(addresses).await;
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
