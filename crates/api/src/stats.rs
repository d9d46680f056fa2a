//! Resource use of VMs, as the API reports it.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Id, Size, VmName, VmState};

/// Resource use of a VM: an element of `GET /v1/stats`, which lists all running VMs, or those in `?vms=REF,REF`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VmStats {
    /// Its id.
    pub id: Id,
    /// Its name.
    pub name: VmName,
    /// Its state.
    pub state: VmState,
    /// Time of the measurement.
    pub at: Timestamp,
    /// Recent CPU use of its processes, in percent of one host CPU; `None` if it is down.
    #[serde(default)]
    pub cpu_percent: Option<f64>,
    /// Period that `cpu_percent` covers, in seconds.
    #[serde(default)]
    pub cpu_over_s: Option<f64>,
    /// Number of virtual CPUs.
    pub vcpu: u32,
    /// Host memory that its processes hold; `None` if it is down.
    #[serde(default)]
    pub resident: Option<Size>,
    /// Its memory.
    pub memory: Size,
    /// Its disks.
    pub disks: Vec<DiskStats>,
    /// The guest's own report; `None` if it sends none.
    #[serde(default)]
    pub guest: Option<GuestStats>,
}

/// A disk of a VM, as a file on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiskStats {
    /// `system_overlay` or `work`.
    pub name: String,
    /// Size that the guest sees.
    pub apparent: Size,
    /// Space that it uses on the host's disk.
    pub real: Size,
}

/// A guest's report on itself, which may be false.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GuestStats {
    /// Time since its kernel started, in milliseconds.
    pub uptime_ms: u64,
    /// Load average over the last minute: programs that run or wait to run.
    pub load: f64,
    /// Memory that its kernel manages.
    pub memory_total: Size,
    /// Memory still available to its programs.
    pub memory_available: Size,
    /// Bytes received over its network since boot.
    pub received: u64,
    /// Bytes sent over its network since boot.
    pub sent: u64,
}
