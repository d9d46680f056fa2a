//! Images as the API tells them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Id, Name, Named, Size};

/// An image: an immutable root file system, and the kernel it prefers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Image {
    /// Its id.
    pub id: Id,
    /// Its name.
    pub name: Name,
    /// Size of its file system.
    pub size: Size,
    /// What it takes on the host's disk.
    pub disk_usage: Size,
    /// Files and folders in it.
    pub entries: u64,
    /// The distribution's own name for itself.
    #[serde(default)]
    pub os: Option<String>,
    /// The program that becomes PID 1; `None` when the agent stays it.
    #[serde(default)]
    pub init: Option<String>,
    /// The kernel it prefers, by name.
    #[serde(default)]
    pub kernel: Option<String>,
    /// Where it came from: `tar`, or `catalog`.
    pub source: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Names of the VMs made of it.
    #[serde(default)]
    pub used_by: Vec<String>,
}

impl Named for Image {
    fn id(&self) -> &Id {
        &self.id
    }
    fn name(&self) -> &str {
        self.name.as_str()
    }
}

/// Asks for a catalog entry: `POST /v1/images/pull` and `POST /v1/kernels/pull`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pull {
    /// The entry's name.
    pub name: Name,
}
