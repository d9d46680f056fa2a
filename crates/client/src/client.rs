//! What every call begins with.

use banger_api::{ApiError, Dirs};

use crate::connect::Daemon;

/// A client of the daemon. Each call is a connection of its own.
#[derive(Debug)]
pub struct Client {
    pub(crate) daemon: Daemon,
}

impl Client {
    /// By this process's environment; nothing is connected or started yet.
    ///
    /// # Errors
    /// When there is nowhere to keep anything, or no daemon program.
    pub fn new() -> Result<Self, ApiError> {
        Ok(Self { daemon: Daemon::find()? })
    }

    /// banger's folders.
    pub fn dirs(&self) -> &Dirs {
        &self.daemon.dirs
    }
}
