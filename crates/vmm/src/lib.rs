//! A VM's hardware as data in, a process out.
//!
//! [`discover`] finds what can run a VM, [`choose`] picks one, and its [`Vmm::plan`] turns a [`VmSpec`] into a
//! [`LaunchPlan`]: files and processes as plain data, that the engine then starts. [`connect`] and [`listen`] are the
//! two ways between host and guest once it runs.

mod channel;
mod choose;
mod discover;
mod error;
mod firecracker;
mod probe;
mod program;
mod qemu;
mod spec;

use std::{fmt, future::Future, path::Path, pin::Pin};

pub use channel::{GuestChannel, GuestListener, GuestStream, connect, listen};
pub use choose::choose;
pub use discover::{HostVmms, discover};
pub use error::VmmError;
pub use probe::{KvmProbe, probe_main};
pub use spec::{Disk, GuestNetwork, LaunchPlan, Network, Process, Role, VmSpec};

/// The programs that can run a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmmKind {
    /// Firecracker; needs KVM.
    Firecracker,
    /// QEMU; with KVM, or slower without.
    Qemu,
}

impl fmt::Display for VmmKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Firecracker => "firecracker",
            Self::Qemu => "qemu",
        })
    }
}

/// What makes the virtual CPUs run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// The processor itself.
    Kvm,
    /// QEMU's translation, in software.
    Tcg,
}

/// A future that a trait can return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A program that can run a VM. The same spec gives the same VM with each.
pub trait Vmm: Send + Sync + fmt::Debug {
    /// Which.
    fn kind(&self) -> VmmKind;
    /// What makes its CPUs run.
    fn accel(&self) -> Accel;
    /// Its version.
    fn version(&self) -> &str;
    /// All that is needed to start the VM, as data.
    ///
    /// # Errors
    /// When this VMM cannot run such a VM here.
    fn plan(&self, spec: &VmSpec) -> Result<LaunchPlan, VmmError>;
    /// Whether the VMM at this control socket is alive.
    fn answers<'a>(&'a self, control: &'a Path) -> BoxFuture<'a, Result<(), VmmError>>;
    /// Lets the virtual CPUs stand still.
    fn pause<'a>(&'a self, control: &'a Path) -> BoxFuture<'a, Result<(), VmmError>>;
    /// Lets the virtual CPUs go on.
    fn resume<'a>(&'a self, control: &'a Path) -> BoxFuture<'a, Result<(), VmmError>>;
    /// Presses Ctrl-Alt-Del on the guest's keyboard.
    fn ctrl_alt_del<'a>(&'a self, control: &'a Path) -> BoxFuture<'a, Result<(), VmmError>>;
}
