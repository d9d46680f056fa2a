//! Requests of the daemon to the gateway: a JSON message each, on a connection of its own.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::Arc,
    time::Duration,
};

use banger_api::Egress;
use banger_sys::Watched;
use rustix::net::{SocketFlags, accept_with};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::state::State;
use crate::message::{connect, receive, send};

/// Timeout for a request on a connection that was accepted: the daemon has sent it already.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A request of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Request {
    /// Change the policy. Answered with whether it is done.
    SetEgress(Egress),
}

/// Sends the gateway whose socket is at `path` a VM's new policy, after its rules were applied. Blocks.
///
/// # Errors
/// Returns an error if there is no gateway, or it fails.
pub fn set_egress(path: &Path, egress: &Egress) -> io::Result<()> {
    let socket = connect(path)?;
    send(&socket, &Request::SetEgress(egress.clone()), &[])?;
    match receive::<bool>(&socket)? {
        Some((true, _)) => Ok(()),
        Some((false, _)) => Err(io::Error::other("the gateway cannot allow the addresses of names")),
        None => Err(io::Error::other("the gateway ended")),
    }
}

/// Answers the daemon's requests.
pub(super) async fn serve(listener: Watched, state: Arc<State>) -> io::Result<()> {
    loop {
        listener.readable().await?.clear_ready();
        while let Ok(connection) = accept_with(&listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            // The daemon may have ended.
            let _ = timeout(REQUEST_TIMEOUT, answer(connection, &state)).await;
        }
    }
}

async fn answer(connection: OwnedFd, state: &State) -> io::Result<()> {
    let connection = Watched::new(connection)?;
    connection.readable().await?.retain_ready();
    let Some((Request::SetEgress(egress), _)) = receive(&connection)? else { return Ok(()) };
    send(connection.as_fd(), &state.change(egress).await, &[])
}
