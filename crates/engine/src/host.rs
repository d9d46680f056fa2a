//! The identity of this host and its boot.

use std::fs;

use crate::error::EngineError;

/// A random number for each boot of the host (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Returns the id of the host's boot.
pub(crate) fn boot_id() -> Result<String, EngineError> {
    Ok(fs::read_to_string(BOOT_ID).map_err(EngineError::file("read", BOOT_ID))?.trim_end().to_owned())
}

/// Returns the host's name.
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
