//! State that the daemon's routes share.

use std::time::Instant;

use banger_api::{ProgramId, ProxyStatus};
use banger_engine::Engine;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The daemon's shared state.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) engine: Engine,
    pub(crate) build: ProgramId,
    /// State of the reverse proxy; `None` if it is off.
    pub(crate) proxy: Option<ProxyStatus>,
    pub(crate) started: Instant,
    /// Notified when the daemon should stop.
    pub(crate) stop: Notify,
    /// Cancelled when the daemon stops.
    pub(crate) stopping: CancellationToken,
}

/// User id of a connection's client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) u32);

impl Daemon {
    pub(crate) fn new(engine: Engine, build: ProgramId, proxy: Option<ProxyStatus>) -> Self {
        Self {
            engine,
            build,
            proxy,
            started: Instant::now(),
            stop: Notify::new(),
            stopping: CancellationToken::new(),
        }
    }
}
