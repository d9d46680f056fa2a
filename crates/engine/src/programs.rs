//! banger's own programs that the engine runs or copies into guests.

use std::path::PathBuf;

/// Paths of banger's own programs.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The daemon itself. It also writes console logs and probes KVM, each in a separate process.
    pub bangerd: PathBuf,
    /// The static agent program for guests.
    pub agent: PathBuf,
}
