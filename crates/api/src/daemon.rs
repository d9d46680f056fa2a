//! The daemon's status, and the identity of its program.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Request header with the [`ProgramId`] of the `bangerd` that the client would start. A daemon of another build
/// answers `version_skew` and does nothing, so that the client can restart it.
pub const BUILD_HEADER: &str = "banger-build";

/// Maximum size of a response that is not a stream, in bytes. The texts of a VM and of an image are limited so that no
/// guest and no registry can make a list that is longer.
pub const MAX_RESPONSE: usize = 16 << 20;

/// Identity of a program's file; it changes when the file is replaced on disk.
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

/// Status of the daemon: `GET /v1/daemon`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct DaemonStatus {
    /// Its version.
    pub version: String,
    /// Its build, as in [`BUILD_HEADER`].
    pub build: String,
    /// Its process id.
    pub pid: u32,
    /// Its uptime, in seconds.
    pub uptime_s: u64,
    /// Resident memory in bytes.
    pub resident: u64,
    /// Number of running VMs.
    pub running_vms: u32,
    /// Number of operations in progress.
    pub operations: u32,
    /// Path of its socket.
    pub socket: String,
    /// Path of its state directory.
    pub state_dir: String,
    /// Path of its log file.
    pub log: String,
    /// The VMM that would run a VM now, or the reason why none would.
    pub vmm: String,
    /// Result of the KVM probe.
    pub kvm: String,
    /// The reverse proxy; `null` if it is off.
    #[serde(default)]
    pub proxy: Option<ProxyStatus>,
}

/// State of the reverse proxy for `http://PORT.VM.localhost`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProxyStatus {
    /// Its port on loopback.
    pub port: u16,
    /// The reason why it does not listen.
    #[serde(default)]
    pub error: Option<String>,
}
