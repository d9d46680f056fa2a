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
}

impl Named for Kernel {
    fn id(&self) -> &Id {
        &self.id
    }
    fn name(&self) -> &str {
        self.name.as_str()
    }
}
