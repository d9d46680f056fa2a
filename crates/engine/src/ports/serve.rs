//! Accepts connections to a published port, and connects each with the guest.

use std::{sync::Arc, time::Duration};

use banger_api::Id;
use tokio::{
    io::copy_bidirectional_with_sizes,
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::sleep,
};

use super::guest_socket::{AgentAddress, GuestSocket};
use crate::sessions::Sessions;

/// Maximum number of open connections to a VM's published ports; more wait in the kernel.
pub(super) const MAX_CONNECTIONS: usize = 512;

/// Bytes to copy at a time: a frame to the guest.
const CHUNK: usize = 256 << 10;

/// Delay after a failed accept, for example when this process has too many open files.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// The port of a guest that a listener serves.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) vm: Id,
    pub(super) agent: AgentAddress,
    pub(super) port: u16,
    /// The VM's free connections.
    pub(super) slots: Arc<Semaphore>,
    pub(super) sessions: Arc<Sessions>,
}

/// Serves a listener forever. Dropping the future closes its connections.
pub(super) async fn serve(listener: Arc<TcpListener>, target: Target) {
    let mut connections = JoinSet::new();
    loop {
        // The semaphore is never closed.
        let Ok(slot) = target.slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((client, _)) => {
                let target = target.clone();
                connections.spawn(async move {
                    connect(client, &target).await;
                    drop(slot);
                });
            }
            // The error of one connection, or too few descriptors.
            Err(error) => {
                tracing::warn!(vm = %target.vm, port = target.port, %error, "cannot accept a connection");
                sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Connects a client with the guest. Without a listener in the guest, the client's connection is closed at once.
async fn connect(mut client: TcpStream, target: &Target) {
    let _session = target.sessions.open_port(&target.vm);
    let mut guest = match GuestSocket::connect(&target.agent, target.port).await {
        Ok(guest) => guest,
        Err(error) => {
            tracing::debug!(vm = %target.vm, port = target.port, %error, "the guest does not accept a connection");
            return;
        }
    };
    // Small messages are sent without delay.
    let _ = client.set_nodelay(true);
    if let Err(error) = copy_bidirectional_with_sizes(&mut client, &mut guest, CHUNK, CHUNK).await {
        tracing::debug!(vm = %target.vm, port = target.port, %error, "a connection broke");
    }
}
