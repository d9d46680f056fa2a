//! VMs, as the API reports them.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Credentials, Egress, GuestSettings, HostPorts, Id, Named, NetworkKind, Publish, PublishedPort, Size,
    VmName,
};

/// State of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VmState {
    /// Created, never started.
    Created,
    /// Being started.
    Starting,
    /// Its VMM runs and the agent has answered.
    Running,
    /// Its VMM exists, but its virtual CPUs are paused.
    Paused,
    /// Being stopped.
    Stopping,
    /// Stopped, with its disks kept.
    Stopped,
    /// Stopped without a request; `last_error` gives the reason.
    Error,
}

impl VmState {
    /// Returns its name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Error => "error",
        }
    }
}

impl std::fmt::Display for VmState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// The program that runs a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Vmm {
    /// Firecracker, with KVM.
    Firecracker,
    /// QEMU, with or without KVM.
    Qemu,
}

impl std::fmt::Display for Vmm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Firecracker => "firecracker",
            Self::Qemu => "qemu",
        })
    }
}

impl std::str::FromStr for Vmm {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "firecracker" => Ok(Self::Firecracker),
            "qemu" => Ok(Self::Qemu),
            _ => Err(format!("{text:?} is not a VMM: use firecracker or qemu")),
        }
    }
}

/// Acceleration of a VM's virtual CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Accel {
    /// Hardware virtualisation (KVM).
    Kvm,
    /// Translation in software: correct, but about ten times slower.
    Tcg,
}

/// The VMM that ran a VM, and the acceleration of its virtual CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LastRun {
    /// The VMM.
    pub vmm: Vmm,
    /// The acceleration of its virtual CPUs.
    pub accel: Accel,
}

impl std::fmt::Display for LastRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let accel = match self.accel {
            Accel::Kvm => "with KVM",
            Accel::Tcg => "without KVM, in software",
        };
        write!(f, "{} {accel}", self.vmm)
    }
}

/// A VM.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Vm {
    /// Its id.
    pub id: Id,
    /// Its name.
    pub name: VmName,
    /// Its state.
    pub state: VmState,
    /// Its image's name.
    pub image: String,
    /// Its kernel's name.
    pub kernel: String,
    /// Number of virtual CPUs.
    pub vcpu: u32,
    /// Memory in bytes.
    pub memory: Size,
    /// Size of the system overlay in bytes.
    pub system_overlay_size: Size,
    /// Size of the work disk in bytes.
    pub disk_size: Size,
    /// Kind of its network.
    #[serde(default)]
    pub network_kind: NetworkKind,
    /// Destinations that it reaches.
    #[serde(default)]
    pub egress: Egress,
    /// Ports of the host's loopback that it reaches as `host.banger.internal`.
    #[serde(default)]
    pub allow_host: HostPorts,
    /// Whether it is deleted when its session ends.
    pub rm: bool,
    /// Time of its creation.
    pub created_at: Timestamp,
    /// Time of its last start, while it runs.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    /// Time when its guest was last used.
    #[serde(default)]
    pub last_used_at: Option<Timestamp>,
    /// The reason for state `error`.
    #[serde(default)]
    pub last_error: Option<String>,
    /// The VMM that runs it, while it runs.
    #[serde(default)]
    pub vmm: Option<Vmm>,
    /// The acceleration of its virtual CPUs, while it runs.
    #[serde(default)]
    pub accel: Option<Accel>,
    /// The VMM and acceleration of its current or last run; its next start uses the same.
    #[serde(default)]
    pub ran_with: Option<LastRun>,
    /// Description of its network, while it runs.
    #[serde(default)]
    pub network: Option<String>,
    /// The ports that it publishes.
    #[serde(default)]
    pub published: Vec<PublishedPort>,
    /// Whether it also publishes each TCP port on which something in the guest listens.
    #[serde(default)]
    pub publish_all: bool,
    /// Process id of its VMM, while it runs.
    #[serde(default)]
    pub pid: Option<u32>,
    /// Path of the file with the latest output of its console.
    pub console: String,
}

impl Named for Vm {
    fn id(&self) -> &Id {
        &self.id
    }
    fn name(&self) -> &str {
        self.name.as_str()
    }
}

/// Request to create a VM: `POST /v1/vms`. Unset fields use the configuration, then the built-in defaults.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateVm {
    /// The name; generated if unset.
    #[serde(default)]
    pub name: Option<VmName>,
    /// An image's name, id or prefix, or a name in the catalog or a registry.
    #[serde(default)]
    pub image: Option<String>,
    /// A kernel's name, id or prefix, or a name in the catalog.
    #[serde(default)]
    pub kernel: Option<String>,
    /// Number of virtual CPUs.
    #[serde(default)]
    pub vcpu: Option<u32>,
    /// Memory.
    #[serde(default)]
    pub memory: Option<Size>,
    /// Size of the work disk.
    #[serde(default)]
    pub disk_size: Option<Size>,
    /// Size of the system overlay.
    #[serde(default)]
    pub system_overlay_size: Option<Size>,
    /// The VMM that runs it.
    #[serde(default)]
    pub vmm: Option<Vmm>,
    /// Kind of its network.
    #[serde(default)]
    pub network_kind: Option<NetworkKind>,
    /// Destinations that it reaches.
    #[serde(default)]
    pub egress: Option<Egress>,
    /// Ports of the host's loopback that it reaches as `host.banger.internal`.
    #[serde(default)]
    pub allow_host: Option<HostPorts>,
    /// Ports to publish on the host while the VM runs. They must be free now.
    #[serde(default)]
    pub publish: Vec<Publish>,
    /// Also publish each TCP port on which something in the guest listens, as long as it does.
    #[serde(default)]
    pub publish_all: bool,
    /// Further ports to publish. A host port that is taken now is replaced by a free one.
    #[serde(default)]
    pub publish_or_other: Vec<Publish>,
    /// Only create the VM, to start it later.
    #[serde(default)]
    pub no_start: bool,
    /// Delete the VM when the session ends. The event stream stays open after `done`; the session ends when the
    /// client disconnects.
    #[serde(default)]
    pub rm: bool,
    /// Continue when the client disconnects.
    #[serde(default)]
    pub detach: bool,
    /// User settings that the guest receives.
    #[serde(default)]
    pub personal: GuestSettings,
    /// The user's credentials for registries, in case the image must be pulled.
    #[serde(default)]
    pub credentials: Vec<Credentials>,
}

/// Options of `POST /v1/vms/REF/start`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StartVm {
    /// User settings that the guest receives.
    #[serde(default)]
    pub personal: GuestSettings,
}

/// Options of `POST /v1/vms/REF/restart`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RestartVm {
    /// As in [`StopVm`].
    #[serde(default)]
    pub timeout_s: Option<u64>,
    /// User settings that the guest receives.
    #[serde(default)]
    pub personal: GuestSettings,
}

/// Options of `POST /v1/vms/REF/stop`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StopVm {
    /// Timeout for an orderly power-off before the VM is killed, in seconds.
    #[serde(default)]
    pub timeout_s: Option<u64>,
}

/// Request to send a signal to a VM's VMM: `POST /v1/vms/REF/kill`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KillVm {
    /// The signal.
    #[serde(default)]
    pub signal: KillSignal,
}

/// Request to change a VM's hardware or network: `PATCH /v1/vms/REF`. Unset fields stay unchanged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetVm {
    /// Number of virtual CPUs.
    #[serde(default)]
    pub vcpu: Option<u32>,
    /// Memory.
    #[serde(default)]
    pub memory: Option<Size>,
    /// Kind of its network.
    #[serde(default)]
    pub network_kind: Option<NetworkKind>,
    /// Destinations that it reaches. A running VM can change only this.
    #[serde(default)]
    pub egress: Option<Egress>,
    /// Ports of the host's loopback that it reaches from its next start on.
    #[serde(default)]
    pub allow_host: Option<HostPorts>,
    /// Size of the work disk, which can only grow.
    #[serde(default)]
    pub disk_size: Option<Size>,
    /// The VMM from the next start on, with or without KVM.
    #[serde(default)]
    pub vmm: Option<Vmm>,
}

/// Options of `DELETE /v1/vms/REF`.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
pub struct DeleteVm {
    /// Delete it even while it runs, starts or stops; a start or stop in progress is aborted.
    #[serde(default)]
    pub force: bool,
}

/// A signal to a VMM, which ends the process and so its VM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum KillSignal {
    /// Ends the VMM immediately.
    #[default]
    Kill,
    /// QEMU closes its files first; Firecracker ends immediately.
    Term,
    /// The signal that Ctrl-C in a terminal sends.
    Int,
    /// The signal that a closed terminal sends.
    Hup,
    /// Dumps core, if the host keeps core dumps.
    Quit,
    /// Dumps core, as after a fault.
    Abrt,
}

impl KillSignal {
    /// Returns its Linux number.
    pub fn number(self) -> i32 {
        match self {
            Self::Hup => 1,
            Self::Int => 2,
            Self::Quit => 3,
            Self::Abrt => 6,
            Self::Kill => 9,
            Self::Term => 15,
        }
    }
}

impl std::str::FromStr for KillSignal {
    type Err = String;

    /// Parses a name, with or without `SIG`, or a number.
    fn from_str(text: &str) -> Result<Self, String> {
        let upper = text.to_ascii_uppercase();
        Ok(match upper.strip_prefix("SIG").unwrap_or(&upper) {
            "HUP" | "1" => Self::Hup,
            "INT" | "2" => Self::Int,
            "QUIT" | "3" => Self::Quit,
            "ABRT" | "6" => Self::Abrt,
            "KILL" | "9" => Self::Kill,
            "TERM" | "15" => Self::Term,
            _ => return Err(format!("{text:?} is not supported: use KILL, TERM, INT, HUP, QUIT or ABRT")),
        })
    }
}

/// Limits of a VM's hardware.
#[derive(Debug, Clone, Copy)]
pub struct Limits;

impl Limits {
    /// Maximum number of virtual CPUs: Firecracker's limit.
    pub const MAX_VCPU: u32 = 32;
    /// Minimum memory: a Debian kernel with its initrd boots with this much.
    pub const MIN_MEMORY: Size = Size::mib(128);
    /// Maximum memory.
    pub const MAX_MEMORY: Size = Size::gib(1024);
    /// Maximum timeout of a stop, in seconds: an hour.
    pub const MAX_STOP_TIMEOUT_S: u64 = 3600;
    /// Disk sizes are a multiple of this many bytes, a block of ext4; requested sizes are rounded down.
    pub const DISK_UNIT: u64 = 4096;
    /// Minimum size of a disk: an ext4 file system with a journal.
    pub const MIN_DISK: Size = Size::mib(64);
    /// Maximum size of a disk.
    pub const MAX_DISK: Size = Size::gib(128);
}
