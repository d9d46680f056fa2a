//! What VMs use, as the API tells it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Id, Size, VmName, VmState};

/// What a VM uses: an element of `GET /v1/stats`, which tells of all running VMs, or of those in `?vms=REF,REF`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VmStats {
    /// Its id.
    pub id: Id,
    /// Its name.
    pub name: VmName,
    /// What it is doing.
    pub state: VmState,
    /// When all this was so.
    pub at: Timestamp,
    /// How busy its processes kept the host's CPUs lately, in percent of one CPU; nothing, when it is down.
    #[serde(default)]
    pub cpu_percent: Option<f64>,
    /// Over how many seconds that is.
    #[serde(default)]
    pub cpu_over_s: Option<f64>,
    /// Virtual CPUs that it has.
    pub vcpu: u32,
    /// Memory of the host that its processes hold; nothing, when it is down.
    #[serde(default)]
    pub resident: Option<Size>,
    /// Memory that it has.
    pub memory: Size,
    /// Its disks.
    pub disks: Vec<DiskStats>,
    /// What its guest says of itself; nothing, when it does not.
    #[serde(default)]
    pub guest: Option<GuestStats>,
}

/// A disk of a VM, as a file on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStats {
    /// `system_overlay` or `work`.
    pub name: String,
    /// How large it is to the guest.
    pub apparent: Size,
    /// What it takes of the host's disk.
    pub real: Size,
}

/// A guest by its own account, which may be false.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GuestStats {
    /// Since when its kernel runs, in milliseconds.
    pub uptime_ms: u64,
    /// Programs that ran or wanted to, on average over the last minute.
    pub load: f64,
    /// Memory that its kernel manages.
    pub memory_total: Size,
    /// Memory that its programs could still have.
    pub memory_available: Size,
    /// Bytes that came over its network since it came up.
    pub received: u64,
    /// Bytes that went over its network since it came up.
    pub sent: u64,
}
