//! Kernels, as the API reports them.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Id, Name, Named, Size};

/// A guest kernel.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Kernel {
    /// Its id.
    pub id: Id,
    /// Its name.
    pub name: Name,
    /// Its release, as `uname -r` prints it in the guest.
    pub release: String,
    /// Whether it has modules.
    pub modules: bool,
    /// Whether QEMU can boot it directly (it has the PVH note).
    pub pvh: bool,
    /// Space that it uses on the host's disk.
    pub disk_usage: Size,
    /// Its source: `deb`, `rpm`, `files`, or `catalog`.
    pub source: String,
    /// Time of its creation.
    pub created_at: Timestamp,
    /// Names of the VMs that boot it.
    #[serde(default)]
    pub used_by: Vec<String>,
    /// Its details; included only when a single kernel is requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<KernelDetails>,
}

/// Details of a kernel.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct KernelDetails {
    /// Size of the kernel itself, uncompressed.
    pub vmlinux: Size,
    /// Number of modules.
    pub modules: u64,
    /// Whether Firecracker can boot it.
    pub firecracker: bool,
    /// Whether QEMU can boot it.
    pub qemu: bool,
    /// The drivers that VMs boot with, then other common ones.
    pub drivers: Vec<Driver>,
}

/// A driver, and its presence in a kernel.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Driver {
    /// Its module's name.
    pub name: String,
    /// Its presence in the kernel.
    pub presence: DriverPresence,
    /// Whether VMs boot with it.
    pub boot: bool,
}

/// Presence of a driver in a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DriverPresence {
    /// Built into the kernel.
    BuiltIn,
    /// Available as a module.
    Module,
    /// Not available.
    Missing,
    /// Cannot be determined.
    Unknown,
}

/// A kernel in the catalog: `GET /v1/catalog/kernels`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct AvailableKernel {
    /// Its name, used to pull it.
    pub name: String,
    /// Description in one line.
    pub description: String,
    /// Approximate size on disk.
    pub size: Size,
    /// Its source: a package, or URLs.
    pub source: String,
    /// Whether a kernel with this name exists locally.
    #[serde(rename = "here")]
    pub local: bool,
}

impl Named for Kernel {
    fn id(&self) -> &Id {
        &self.id
    }
    fn name(&self) -> &str {
        self.name.as_str()
    }
}
