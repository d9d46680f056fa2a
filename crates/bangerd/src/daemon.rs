//! What serves and what the routes work on.

use std::time::Instant;

use banger_api::ProgramId;
use banger_engine::Engine;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What the routes work on.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) engine: Engine,
    pub(crate) build: ProgramId,
    pub(crate) started: Instant,
    /// Told when the daemon should end.
    pub(crate) stop: Notify,
    /// Cancelled when it ends.
    pub(crate) stopping: CancellationToken,
}

/// Who is at the other end of a connection, by user number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) u32);

impl Daemon {
    pub(crate) fn new(engine: Engine, build: ProgramId) -> Self {
        Self {
            engine,
            build,
            started: Instant::now(),
            stop: Notify::new(),
            stopping: CancellationToken::new(),
        }
    }
}
