//! Traits that every VMM implements.

use std::{fmt, future::Future, path::Path, pin::Pin};

use crate::{
    error::VmmError,
    kind::{Accel, VmmKind},
    spec::{LaunchPlan, VmSpec},
};

/// Return type of asynchronous trait methods.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A program that can run a VM. The same spec results in the same VM with each.
pub trait Vmm: Send + Sync + fmt::Debug {
    /// Returns the VMM's kind.
    fn kind(&self) -> VmmKind;
    /// Returns the accelerator that runs its virtual CPUs.
    fn accel(&self) -> Accel;
    /// Returns its version.
    fn version(&self) -> &str;
    /// Returns everything needed to start the VM, as data.
    ///
    /// # Errors
    /// Returns an error if this VMM cannot run the VM on this host.
    fn plan(&self, spec: &VmSpec) -> Result<LaunchPlan, VmmError>;
}

/// Requests to a running VMM. They need only its control socket.
pub trait Control: Send + Sync + fmt::Debug {
    /// Checks that the VMM at this control socket answers.
    fn ping<'a>(&'a self, control: &'a Path) -> BoxFuture<'a, Result<(), VmmError>>;
    /// Pauses the virtual CPUs.
    fn pause<'a>(&'a self, control: &'a Path) -> BoxFuture<'a, Result<(), VmmError>>;
    /// Resumes the virtual CPUs.
    fn resume<'a>(&'a self, control: &'a Path) -> BoxFuture<'a, Result<(), VmmError>>;
    /// Presses Ctrl-Alt-Del on the guest's keyboard.
    fn ctrl_alt_del<'a>(&'a self, control: &'a Path) -> BoxFuture<'a, Result<(), VmmError>>;
}
