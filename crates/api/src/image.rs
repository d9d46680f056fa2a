//! Images as the API tells them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Credentials, Digest, Id, ImageName, Name, Named, Size};

/// An image: an immutable root file system, and the kernel it prefers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Image {
    /// Its id.
    pub id: Id,
    /// Its name.
    pub name: ImageName,
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
    /// Where it came from: `tar`, `catalog` or `registry`.
    pub source: String,
    /// What it was called in its registry, nothing left out.
    #[serde(default)]
    pub reference: Option<String>,
    /// The digest of its manifest there.
    #[serde(default)]
    pub digest: Option<Digest>,
    /// What is to run in it, and how.
    #[serde(default)]
    pub config: ImageConfig,
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

/// What an image says of the programs in it (OCI image configuration, "config").
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Variables, as `NAME=VALUE`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// The folder that the program starts in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// Whom it runs as: `USER[:GROUP]`, each a name or a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The program, and its first arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// More arguments; or program and arguments, where there is no entrypoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
}

/// Asks for an image of the catalog or a registry: `POST /v1/images/pull`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PullImage {
    /// A name in the catalog, else what it is called in a registry.
    pub name: ImageName,
    /// Size of its file system; when left out, one and a half times its content and at least 1 GiB.
    #[serde(default)]
    pub size: Option<Size>,
    /// What its user shows to registries.
    #[serde(default)]
    pub credentials: Vec<Credentials>,
}

/// Asks for a kernel of the catalog: `POST /v1/kernels/pull`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pull {
    /// The entry's name.
    pub name: Name,
}
