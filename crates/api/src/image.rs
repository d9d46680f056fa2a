//! Images as the API tells them.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Credentials, Digest, Id, ImageName, Name, Named, Size};

/// Where an image came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ImageSource {
    /// A tar of a root file system.
    Tar,
    /// A bundle, in a file or at a URL.
    Bundle,
    /// A catalog entry that is no registry's: packages, or a bundle.
    Catalog,
    /// A registry.
    Registry,
    /// A file of the user's, registered where it is.
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
    /// Returns the name that the API has for it.
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
    /// Where it came from.
    pub source: ImageSource,
    /// The file of its user's that it is, where it is not banger's own.
    #[serde(default)]
    pub outside: Option<PathBuf>,
    /// Why no VM can start from it now.
    #[serde(default)]
    pub problem: Option<String>,
    /// Whether other images are the same file: deleting one of them frees nothing.
    #[serde(default)]
    pub shared: bool,
    /// What all that a build made it of comes to, in one digest.
    #[serde(default)]
    pub build_key: Option<Digest>,
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

/// An image that the catalog has: `GET /v1/catalog/images`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CatalogEntry {
    /// Its name.
    pub name: ImageName,
    /// What it is, in a line.
    pub description: String,
    /// Whose system it is.
    pub distro: String,
    /// For which processors: `amd64`.
    pub arch: String,
    /// The kernel that suits it.
    #[serde(default)]
    pub kernel: Option<Name>,
    /// What it takes on the disk, about.
    pub size: Size,
    /// Where it comes from, in the order to try: `oci`, `bundle` or `mmdebstrap`.
    pub sources: Vec<String>,
    /// What it is called in registries, where it comes from one.
    #[serde(default)]
    pub references: Vec<ImageName>,
    /// Whether it is here already.
    pub here: bool,
}

/// An image in a file of its own, the result of `POST /v1/images/{image}/bundle`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bundle {
    /// What the image is called.
    pub name: ImageName,
    /// Of all the file's bytes.
    pub sha256: Digest,
    /// Bytes in the file.
    pub size: Size,
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

/// Asks for another name of an image, beside its own or in place of it: `POST /v1/images/{image}/tag` and `/rename`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NameImage {
    /// The name.
    pub name: ImageName,
    /// Take the name from an image that a build made and that no VM uses.
    #[serde(default)]
    pub replace_built: bool,
}

/// Asks for an image that is a file of the user's, where it is: `POST /v1/images/register`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterImage {
    /// Its name.
    pub name: ImageName,
    /// The ext4 file, by its whole path.
    pub path: PathBuf,
    /// The kernel it prefers, by name.
    #[serde(default)]
    pub kernel: Option<String>,
}

/// Asks for an image of what is on a VM's disks: `POST /v1/vms/{vm}/commit`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommitVm {
    /// Its name.
    pub name: ImageName,
    /// What is in `/root` too.
    #[serde(default)]
    pub with_home: bool,
    /// What a build made the VM of. The name may then be that of an image that a build made and that no VM uses.
    #[serde(default)]
    pub build_key: Option<Digest>,
}

/// Asks for the caches to be emptied: `POST /v1/images/prune`.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PruneCache {
    /// Only tell what would go.
    #[serde(default)]
    pub dry_run: bool,
}

/// What has gone from the caches, or would.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// Each kind of it.
    pub kinds: Vec<PrunedKind>,
    /// Bytes that are freed in all.
    pub size: Size,
    /// Nothing was removed yet.
    pub dry_run: bool,
}

/// Files of one kind that have gone from the caches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrunedKind {
    /// What they are: `layers`, `boot initrds` or `catalogs`.
    pub kind: String,
    /// How many.
    pub files: u64,
    /// Bytes on the disk.
    pub size: Size,
}

/// Asks for a kernel of the catalog: `POST /v1/kernels/pull`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pull {
    /// The entry's name.
    pub name: Name,
}
