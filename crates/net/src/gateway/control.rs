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
    /// Write the flows so far to the record. Answered with whether it is done.
    SaveFlows,
}

/// Sends the gateway whose socket is at `path` a VM's new policy, after its rules were applied. Blocks.
///
/// # Errors
/// Returns an error if there is no gateway, or it fails.
pub fn set_egress(path: &Path, egress: &Egress) -> io::Result<()> {
    request(path, &Request::SetEgress(egress.clone()), "the gateway cannot allow the addresses of names")
}

/// Lets the gateway whose socket is at `path` write the flows so far to its record. Blocks.
///
/// # Errors
/// Returns an error if there is no gateway, or it cannot write.
pub fn save_flows(path: &Path) -> io::Result<()> {
    request(path, &Request::SaveFlows, "the gateway cannot write its record")
}

fn request(path: &Path, request: &Request, failure: &'static str) -> io::Result<()> {
    let socket = connect(path)?;
    send(&socket, request, &[])?;
    match receive::<bool>(&socket)? {
        Some((true, _)) => Ok(()),
        Some((false, _)) => Err(io::Error::other(failure)),
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
    let Some((request, _)) = receive(&connection)? else { return Ok(()) };
    let is_done = match request {
        Request::SetEgress(egress) => state.change(egress).await,
        Request::SaveFlows => state.recorder.save_now().await.is_ok(),
    };
    send(connection.as_fd(), &is_done, &[])
}
