//! The client, which every call starts from.

use banger_api::{ApiError, Dirs};

use crate::connect::Daemon;

/// A client of the daemon. Each call opens its own connection.
#[derive(Debug)]
pub struct Client {
    pub(crate) daemon: Daemon,
}

impl Client {
    /// Creates a client from this process's environment, without connecting or starting anything.
    ///
    /// # Errors
    /// Returns an error if there is no home directory, or no daemon program.
    pub fn new() -> Result<Self, ApiError> {
        Ok(Self { daemon: Daemon::find()? })
    }

    /// Returns banger's directories.
    pub fn dirs(&self) -> &Dirs {
        &self.daemon.dirs
    }
}
