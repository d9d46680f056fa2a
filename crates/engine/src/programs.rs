//! The programs of banger's own that the engine runs or copies into guests.

use std::path::PathBuf;

/// Paths of banger's own programs.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The daemon itself: it keeps consoles and probes KVM, each in a process of its own.
    pub bangerd: PathBuf,
    /// The static program for the guests.
    pub agent: PathBuf,
}
