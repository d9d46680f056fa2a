//! The gateway process: it answers a guest's DNS requests from the host's side, and keeps the host out of reach.
//!
//! It inherits its sockets in the guest's namespace ([`Sockets`]) and has no capability. The guest is hostile, and so
//! may the resolvers be: a request is passed on as it is, once, to a socket of its own, and only an answer to its
//! question is passed back ([`dns`]). It also connects the guest with the services of the host's loopback that its user
//! has allowed (`services`).

mod control;
pub mod dns;
mod flows;
mod forward;
mod host;
mod packet;
mod policy;
mod recorder;
mod resolvers;
mod services;
mod sockets;
mod state;

use std::{io, sync::Arc, time::Duration};

use banger_api::Egress;
use banger_sys::confine::{Confinement, Limits, Sockets as SocketKinds};
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
    time::timeout,
};

pub use control::{save_flows, set_egress};
pub use host::is_offline;
use recorder::Recorder;
pub use resolvers::search_domains;
pub use sockets::Sockets;
use state::State;

use crate::record;

/// Number of open files: a socket for each request that waits, and some; listeners and connections for services.
const OPEN_FILES: u64 = 512 + services::OPEN_FILES;

/// Timeout for the last write of the record, which a reader that has stopped may delay.
const LAST_SAVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns what the gateway may do: open sockets on the host, read the addresses of its resolvers, and write the file
/// that it inherits.
pub fn confinement() -> Confinement {
    let limits = Limits { open_files: OPEN_FILES, file_size: Some(record::MAX_LENGTH), memory: None };
    Confinement { sockets: SocketKinds::Internet, limits, ..Confinement::default() }
}

/// Runs the process `bangerd gateway EGRESS SOCKET...` until the namespace process ends or the daemon asks it to end.
///
/// # Errors
/// Returns an error if a socket is missing.
pub fn main(egress: Egress, sockets: &[String]) -> io::Result<()> {
    let sockets = Sockets::parse(sockets).map_err(io::Error::other)?;
    let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(run(&sockets, egress))
}

async fn run(sockets: &Sockets, egress: Egress) -> io::Result<()> {
    let sockets = sockets.open()?;
    let mut asked_to_end = signal(SignalKind::terminate())?;
    let recorder = Recorder::new(sockets.record)?;
    let addresses = services::addresses(&sockets.services)?;
    let state = Arc::new(State::new(egress, sockets.requests, recorder, addresses));
    for udp in sockets.udp {
        tokio::spawn(forward::serve_udp(Arc::new(udp), state.clone()));
    }
    for tcp in sockets.tcp {
        tokio::spawn(forward::serve_tcp(tcp, state.clone()));
    }
    services::serve(sockets.services);
    let result = tokio::select! {
        _ = asked_to_end.recv() => Ok(()),
        result = recorder::watch(&sockets.log, &state.recorder) => result,
        () = state.recorder.save_changes() => Ok(()),
        result = host::watch(sockets.route, sockets.changes, &state) => result,
        result = control::serve(sockets.control, state.clone()) => result,
        result = sockets.connection.run() => result,
    };
    // What the guest did last.
    recorder::receive(&sockets.log, &state.recorder)?;
    timeout(LAST_SAVE_TIMEOUT, state.recorder.save_now()).await.map_err(io::Error::other)??;
    result
}
