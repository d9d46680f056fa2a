//! What every VMM can do.

use std::{fmt, future::Future, path::Path, pin::Pin};

use crate::{
    error::VmmError,
    kind::{Accel, VmmKind},
    spec::{LaunchPlan, VmSpec},
};

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
}

/// The requests to a VMM that runs. They need nothing of the host but its control socket.
pub trait Control: Send + Sync + fmt::Debug {
    /// Whether the VMM at this control socket is alive.
    fn answers<'a>(&'a self, control: &'a Path) -> BoxFuture<'a, Result<(), VmmError>>;
    /// Lets the virtual CPUs stand still.
    fn pause<'a>(&'a self, control: &'a Path) -> BoxFuture<'a, Result<(), VmmError>>;
    /// Lets the virtual CPUs go on.
    fn resume<'a>(&'a self, control: &'a Path) -> BoxFuture<'a, Result<(), VmmError>>;
    /// Presses Ctrl-Alt-Del on the guest's keyboard.
    fn ctrl_alt_del<'a>(&'a self, control: &'a Path) -> BoxFuture<'a, Result<(), VmmError>>;
}
