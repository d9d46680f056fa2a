//! VMs as the API tells them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Credentials, Id, Named, Personal, Size, VmName};

/// What a VM is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VmState {
    /// Made, never started.
    Created,
    /// On its way up.
    Starting,
    /// Its VMM runs and the agent has answered.
    Running,
    /// Its VMM is there and its virtual CPUs stand still.
    Paused,
    /// On its way down.
    Stopping,
    /// Down, with its disks kept.
    Stopped,
    /// Down, and not because someone asked; `last_error` says why.
    Error,
}

impl VmState {
    /// The word for it, as in JSON.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Vmm {
    /// Firecracker, with KVM.
    Firecracker,
    /// QEMU, with KVM or without.
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

/// What makes a VMM's virtual CPUs run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accel {
    /// The processor itself.
    Kvm,
    /// Translation in software: right, and some ten times slower.
    Tcg,
}

/// The program that ran a VM, and what made its CPUs run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RanWith {
    /// The program.
    pub vmm: Vmm,
    /// What made its CPUs run.
    pub accel: Accel,
}

impl std::fmt::Display for RanWith {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let accel = match self.accel {
            Accel::Kvm => "with KVM",
            Accel::Tcg => "without KVM, in software",
        };
        write!(f, "{} {accel}", self.vmm)
    }
}

/// A VM.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Vm {
    /// Its id.
    pub id: Id,
    /// Its name.
    pub name: VmName,
    /// What it is doing.
    pub state: VmState,
    /// Its image's name.
    pub image: String,
    /// Its kernel's name.
    pub kernel: String,
    /// Virtual CPUs.
    pub vcpu: u32,
    /// Memory in bytes.
    pub memory: Size,
    /// Size of the system overlay in bytes.
    pub system_overlay_size: Size,
    /// Size of the work disk in bytes.
    pub disk_size: Size,
    /// Whether its network reaches out.
    #[serde(default = "yes")]
    pub nat: bool,
    /// Whether it is deleted when its session ends.
    pub rm: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// Since when it runs.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    /// When somebody last had to do with its guest.
    #[serde(default)]
    pub last_used_at: Option<Timestamp>,
    /// Why it is in state `error`.
    #[serde(default)]
    pub last_error: Option<String>,
    /// The program that runs it, while it runs.
    #[serde(default)]
    pub vmm: Option<Vmm>,
    /// What makes its CPUs run, while it runs.
    #[serde(default)]
    pub accel: Option<Accel>,
    /// What it runs with, or last ran with; its next start keeps to that.
    #[serde(default)]
    pub ran_with: Option<RanWith>,
    /// Its network, in words, while it runs.
    #[serde(default)]
    pub network: Option<String>,
    /// Process id of its VMM, while it runs.
    #[serde(default)]
    pub pid: Option<u32>,
    /// The file that keeps the last of its console.
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

/// Asks for a VM: `POST /v1/vms`. What is left out is as configured, else as built in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateVm {
    /// A name; made up when left out.
    #[serde(default)]
    pub name: Option<VmName>,
    /// An image's name, id or prefix; or a name in the catalog or a registry.
    #[serde(default)]
    pub image: Option<String>,
    /// A kernel's name, id or prefix, or a name in the catalog.
    #[serde(default)]
    pub kernel: Option<String>,
    /// Virtual CPUs.
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
    /// Which program runs it.
    #[serde(default)]
    pub vmm: Option<Vmm>,
    /// Whether its network reaches out; it does when this is left out.
    #[serde(default)]
    pub nat: Option<bool>,
    /// Only make it: it is started later.
    #[serde(default)]
    pub no_start: bool,
    /// Delete it when the session ends: the stream of events stays open after `done`, and hanging up ends the
    /// session.
    #[serde(default)]
    pub rm: bool,
    /// Go on when the client hangs up.
    #[serde(default)]
    pub detach: bool,
    /// What of its user's the guest gets.
    #[serde(default)]
    pub personal: Personal,
    /// What its user shows to registries, should the image have to be fetched.
    #[serde(default)]
    pub credentials: Vec<Credentials>,
}

/// Options of `POST /v1/vms/REF/start`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartVm {
    /// What of its user's the guest gets.
    #[serde(default)]
    pub personal: Personal,
}

/// Options of `POST /v1/vms/REF/restart`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestartVm {
    /// As of a stop.
    #[serde(default)]
    pub timeout_s: Option<u64>,
    /// What of its user's the guest gets.
    #[serde(default)]
    pub personal: Personal,
}

/// Options of `POST /v1/vms/REF/stop`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopVm {
    /// How long an orderly power-off may take before it is ended by force, in seconds.
    #[serde(default)]
    pub timeout_s: Option<u64>,
}

/// Asks for a signal to a VM's VMM: `POST /v1/vms/REF/kill`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KillVm {
    /// Which.
    #[serde(default)]
    pub signal: KillSignal,
}

/// Changes a VM's hardware: `PATCH /v1/vms/REF`. What is left out stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetVm {
    /// Virtual CPUs.
    #[serde(default)]
    pub vcpu: Option<u32>,
    /// Memory.
    #[serde(default)]
    pub memory: Option<Size>,
    /// Whether its network reaches out.
    #[serde(default)]
    pub nat: Option<bool>,
    /// Size of the work disk, which only grows.
    #[serde(default)]
    pub disk_size: Option<Size>,
    /// Which program runs it from its next start on, with KVM or without.
    #[serde(default)]
    pub vmm: Option<Vmm>,
}

/// Options of `DELETE /v1/vms/REF`.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct DeleteVm {
    /// Also while it runs, or is being started or stopped, which is cut short.
    #[serde(default)]
    pub force: bool,
}

/// A signal that a VMM may be sent: those that end a process, and so its VM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum KillSignal {
    /// At once.
    #[default]
    Kill,
    /// QEMU closes its files first; Firecracker ends at once.
    Term,
    /// As from a terminal.
    Int,
    /// As when a terminal goes.
    Hup,
    /// With a core dump, where the host keeps them.
    Quit,
    /// With a core dump, as of a fault.
    Abrt,
}

impl KillSignal {
    /// Its Linux number.
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

    /// By name, with or without `SIG`, or by number.
    fn from_str(text: &str) -> Result<Self, String> {
        let upper = text.to_ascii_uppercase();
        Ok(match upper.strip_prefix("SIG").unwrap_or(&upper) {
            "HUP" | "1" => Self::Hup,
            "INT" | "2" => Self::Int,
            "QUIT" | "3" => Self::Quit,
            "ABRT" | "6" => Self::Abrt,
            "KILL" | "9" => Self::Kill,
            "TERM" | "15" => Self::Term,
            _ => return Err(format!("{text:?} ends no VM: use KILL, TERM, INT, HUP, QUIT or ABRT")),
        })
    }
}

/// What a flag is that was not there when the value was written.
fn yes() -> bool {
    true
}

/// The bounds of a VM's hardware.
#[derive(Debug, Clone, Copy)]
pub struct Limits;

impl Limits {
    /// Most virtual CPUs: Firecracker's limit.
    pub const VCPU: u32 = 32;
    /// Least memory: a Debian kernel with its initrd comes up in this much.
    pub const LEAST_MEMORY: Size = Size::mib(128);
    /// Most memory.
    pub const MOST_MEMORY: Size = Size::gib(1024);
    /// Longest that a stop may take, in seconds: an hour.
    pub const STOP_TIMEOUT_S: u64 = 3600;
    /// Disks are a multiple of this many bytes, a block of ext4; what is asked for is rounded down to one.
    pub const DISK_UNIT: u64 = 4096;
    /// Smallest disk: an ext4 with a journal.
    pub const LEAST_DISK: Size = Size::mib(64);
    /// Largest disk.
    pub const MOST_DISK: Size = Size::gib(128);
}
