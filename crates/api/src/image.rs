//! Images, as the API reports them.

use std::path::PathBuf;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Credentials, Digest, Id, ImageName, Name, Named, Size};

/// Source of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ImageSource {
    /// A tar archive of a root file system.
    Tar,
    /// A bundle, in a file or at a URL.
    Bundle,
    /// A catalog entry that is not from a registry: packages, or a bundle.
    Catalog,
    /// A registry.
    Registry,
    /// A user's file, registered in place.
    Register,
    /// A VM's disks.
    Commit,
    /// `banger image build`.
    Build,
    /// A source that this build does not know.
    #[serde(other)]
    Unknown,
}

impl ImageSource {
    /// Returns its name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tar => "tar",
            Self::Bundle => "bundle",
            Self::Catalog => "catalog",
            Self::Registry => "registry",
            Self::Register => "register",
            Self::Commit => "commit",
            Self::Build => "build",
            Self::Unknown => "unknown",
        }
    }
}

/// An image: an immutable root file system, and the kernel it prefers.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Image {
    /// Its id.
    pub id: Id,
    /// Its name.
    pub name: ImageName,
    /// Size of its file system.
    pub size: Size,
    /// Space that it uses on the host's disk.
    pub disk_usage: Size,
    /// Number of files and directories in it.
    pub entries: u64,
    /// The distribution's name, from the image itself.
    #[serde(default)]
    pub os: Option<String>,
    /// The program that becomes PID 1; `None` if the agent stays PID 1.
    #[serde(default)]
    pub init: Option<String>,
    /// The kernel it prefers, by name.
    #[serde(default)]
    pub kernel: Option<String>,
    /// Its source.
    pub source: ImageSource,
    /// Path of the user's file, if the image is not in banger's own store.
    #[serde(default)]
    pub outside: Option<PathBuf>,
    /// The reason why no VM can start from it now.
    #[serde(default)]
    pub problem: Option<String>,
    /// Whether other images share its file, so that deleting one of them frees no space.
    #[serde(default)]
    pub shared: bool,
    /// Digest of all inputs of the build that created it.
    #[serde(default)]
    pub build_key: Option<Digest>,
    /// Its full name in its registry.
    #[serde(default)]
    pub reference: Option<String>,
    /// Digest of its manifest in the registry.
    #[serde(default)]
    pub digest: Option<Digest>,
    /// The program to run in it, and its settings.
    #[serde(default)]
    pub config: ImageConfig,
    /// Time of its creation.
    pub created_at: Timestamp,
    /// Names of the VMs that use it.
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

/// Settings of the programs in an image (OCI image configuration, "config").
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageConfig {
    /// Environment variables, as `NAME=VALUE`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Directory in which the program starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// User that the program runs as: `USER[:GROUP]`, each a name or a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The program, and its first arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// More arguments; or the program and its arguments, if there is no entrypoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
}

impl ImageConfig {
    /// Maximum length as JSON, in bytes: Linux's limit for one argument, and enough for real images. Lists of images
    /// contain it.
    pub const MAX: usize = 128 << 10;

    /// Returns whether it is longer than [`MAX`](Self::MAX).
    pub fn is_too_long(&self) -> bool {
        serde_json::to_vec(self).map_or(true, |json| json.len() > Self::MAX)
    }
}

/// An image in the catalog: `GET /v1/catalog/images`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct CatalogEntry {
    /// Its name.
    pub name: ImageName,
    /// Description in one line.
    pub description: String,
    /// Name of its distribution.
    pub distro: String,
    /// Processor architecture: `amd64`.
    pub arch: String,
    /// The kernel it prefers.
    #[serde(default)]
    pub kernel: Option<Name>,
    /// Approximate size on disk.
    pub size: Size,
    /// Its sources, in the order to try: `oci`, `bundle` or `mmdebstrap`.
    pub sources: Vec<String>,
    /// Its names in registries, if it comes from one.
    #[serde(default)]
    pub references: Vec<ImageName>,
    /// Whether an image with this name exists locally.
    #[serde(rename = "here")]
    pub local: bool,
}

/// An image exported to a file, the result of `POST /v1/images/{image}/bundle`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Bundle {
    /// The image's name.
    pub name: ImageName,
    /// Digest of the whole file.
    pub sha256: Digest,
    /// Size of the file.
    pub size: Size,
}

/// Request to pull an image from the catalog or a registry: `POST /v1/images/pull`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PullImage {
    /// A name in the catalog, else in a registry.
    pub name: ImageName,
    /// Size of its file system. Default: one and a half times its content, and at least 1 GiB.
    #[serde(default)]
    pub size: Option<Size>,
    /// The user's credentials for registries.
    #[serde(default)]
    pub credentials: Vec<Credentials>,
}

/// Request to add a name to an image, or to rename it: `POST /v1/images/{image}/tag` and `/rename`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NameImage {
    /// The new name.
    pub name: ImageName,
    /// Replace an image of this name that a build created and that no VM uses.
    #[serde(default)]
    pub replace_built: bool,
}

/// Request to use a user's file as an image, in place: `POST /v1/images/register`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterImage {
    /// Its name.
    pub name: ImageName,
    /// Absolute path of the ext4 file.
    pub path: PathBuf,
    /// The kernel it prefers, by name.
    #[serde(default)]
    pub kernel: Option<String>,
}

/// Request to create an image from a VM's disks: `POST /v1/vms/{vm}/commit`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommitVm {
    /// The image's name.
    pub name: ImageName,
    /// Include the content of `/root`.
    #[serde(default)]
    pub with_home: bool,
    /// Digest of the build's inputs, if a build created the VM. The image may then replace one of this name that a
    /// build created and that no VM uses.
    #[serde(default)]
    pub build_key: Option<Digest>,
}

/// Request to empty the caches: `POST /v1/images/prune`.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PruneCache {
    /// Only report what would be removed.
    #[serde(default)]
    pub dry_run: bool,
}

/// Files that were removed from the caches, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pruned {
    /// The files, by kind.
    pub kinds: Vec<PrunedKind>,
    /// Total number of bytes freed.
    pub size: Size,
    /// Whether this was a dry run, which removes nothing.
    pub dry_run: bool,
}

/// Files of one kind in the caches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PrunedKind {
    /// The kind: `layers`, `boot initrds` or `catalogs`.
    pub kind: String,
    /// Number of files.
    pub files: u64,
    /// Size on disk.
    pub size: Size,
}

/// Request to pull a kernel from the catalog: `POST /v1/kernels/pull`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pull {
    /// The entry's name.
    pub name: Name,
}
