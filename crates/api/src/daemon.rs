//! The daemon itself as the API tells it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The request header by which a client says which `bangerd` it would start: a [`ProgramId`]. A daemon of another
/// build answers `version_skew` and does nothing, so that the client can restart it.
pub const BUILD_HEADER: &str = "banger-build";

/// Which file a program is: a build replaced on disk has another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgramId {
    /// Device of the file.
    pub device: u64,
    /// Inode of the file.
    pub inode: u64,
    /// Its size in bytes.
    pub size: u64,
    /// Its modification time in nanoseconds since the Unix epoch.
    pub modified_ns: i128,
}

impl fmt::Display for ProgramId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}-{:x}-{:x}", self.device, self.inode, self.size, self.modified_ns)
    }
}

/// How the daemon is: `GET /v1/daemon`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// Its version.
    pub version: String,
    /// Its build, as in [`BUILD_HEADER`].
    pub build: String,
    /// Its process id.
    pub pid: u32,
    /// Since when it runs, in seconds.
    pub uptime_s: u64,
    /// Resident memory in bytes.
    pub resident: u64,
    /// Running VMs.
    pub running_vms: u32,
    /// Operations under way.
    pub operations: u32,
    /// Its socket.
    pub socket: String,
    /// Its state folder.
    pub state_dir: String,
    /// Its log file.
    pub log: String,
    /// What would run a VM now, or why nothing would.
    pub vmm: String,
    /// What the KVM probe found.
    pub kvm: String,
}
