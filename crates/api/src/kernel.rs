//! Kernels as the API tells them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Id, Name, Named, Size};

/// A guest kernel.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Kernel {
    /// Its id.
    pub id: Id,
    /// Its name.
    pub name: Name,
    /// What it calls itself, as `uname -r` tells in the guest.
    pub release: String,
    /// Whether it came with modules.
    pub modules: bool,
    /// Whether QEMU can boot it directly (it has the PVH note).
    pub pvh: bool,
    /// What it takes on the host's disk.
    pub disk_usage: Size,
    /// Where it came from: `deb`, `rpm`, `files`, or `catalog`.
    pub source: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Names of the VMs that boot it.
    #[serde(default)]
    pub used_by: Vec<String>,
    /// What it brings; told only when one kernel is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<KernelDetails>,
}

/// What a kernel brings.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KernelDetails {
    /// Size of the kernel itself, unpacked.
    pub vmlinux: Size,
    /// How many modules there are.
    pub modules: u64,
    /// Whether Firecracker can boot it.
    pub firecracker: bool,
    /// Whether QEMU can boot it.
    pub qemu: bool,
    /// The drivers that VMs boot with, then others that are asked for.
    pub drivers: Vec<Driver>,
}

/// One driver, and how a kernel has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Driver {
    /// Its module's name.
    pub name: String,
    /// How the kernel has it.
    pub presence: DriverPresence,
    /// Whether VMs boot with it.
    pub boot: bool,
}

/// How a kernel has a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriverPresence {
    /// In the kernel itself.
    BuiltIn,
    /// As a module.
    Module,
    /// Not at all.
    Missing,
    /// Nothing tells.
    Unknown,
}

/// A kernel in the catalog: `GET /v1/catalog/kernels`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AvailableKernel {
    /// Its name, for pulling it.
    pub name: String,
    /// What it is, in a line.
    pub description: String,
    /// What it takes on the disk, about.
    pub size: Size,
    /// Where it comes from: a package, or URLs.
    pub source: String,
    /// Whether a kernel of this name is here already.
    pub here: bool,
}

impl Named for Kernel {
    fn id(&self) -> &Id {
        &self.id
    }
    fn name(&self) -> &str {
        self.name.as_str()
    }
}
