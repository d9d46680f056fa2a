//! Bundles: an image in one file, to be handed from host to host.
//!
//! A tar packed with zstd, which `tar --zstd -x` unpacks: `manifest.json`, then `rootfs.ext4`, whose holes are left out as
//! GNU tar does (its manual, "PAX Format, Version 1.0"). Times and owners are fixed, and what is a hole is told by the
//! bytes, not by the file: the same image gives the same bundle.

mod read;
mod runs;
#[cfg(test)]
mod tests;
mod write;

use banger_api::{Digest, ImageConfig, ImageName, Name};
use serde::{Deserialize, Serialize};

pub use read::{Opened, open_bundle};
pub use write::write_bundle;

use crate::error::BundleError;
use crate::error::bundle::{MANIFEST, ROOTFS};

/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;

/// Longest manifest in bytes.
const MANIFEST_MAX: u64 = 1 << 20;

/// Largest file system in bytes, holes included.
const ROOTFS_MAX: u64 = 1 << 40;

/// What a bundle says of its image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleManifest {
    /// Of the format.
    version: u32,
    /// What the image is called.
    pub name: ImageName,
    /// The distribution's own name for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// For which processors.
    arch: String,
    /// The program that becomes PID 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<String>,
    /// The kernel it prefers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Name>,
    /// What is to run in it, and how.
    #[serde(default)]
    pub config: ImageConfig,
    /// Files and folders in it.
    pub entries: u64,
    /// Size of its file system in bytes.
    size: u64,
    /// Of the file system, holes included.
    sha256: Digest,
}

/// What is known of an image without looking at its bytes.
#[derive(Debug, Clone)]
pub struct BundleImage {
    /// What it is called.
    pub name: ImageName,
    /// The distribution's own name for itself.
    pub os: Option<String>,
    /// The program that becomes PID 1.
    pub init: Option<String>,
    /// The kernel it prefers.
    pub kernel: Option<Name>,
    /// What is to run in it, and how.
    pub config: ImageConfig,
    /// Files and folders in it.
    pub entries: u64,
}

impl BundleManifest {
    /// The size of the file system in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads a manifest, and refuses what could not be an image's.
    fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        let refused = |problem: String| Err(BundleError::Manifest(problem));
        let manifest: Self = match serde_json::from_slice(bytes) {
            Ok(manifest) => manifest,
            Err(error) => return refused(error.to_string()),
        };
        let Self { version, arch, size, os, init, config, .. } = &manifest;
        if *version != VERSION {
            return refused(format!("it is of version {version}, and this program reads {VERSION}"));
        }
        if arch != "amd64" {
            return refused(format!("it is for {arch:?}, and VMs here are amd64"));
        }
        if *size == 0 || *size > ROOTFS_MAX {
            return refused(format!("a file system of {size} bytes is out of range"));
        }
        if os.as_deref().is_some_and(|os| os.chars().count() > 100 || os.contains(char::is_control)) {
            return refused("its os is not a name".to_owned());
        }
        if init.as_deref().is_some_and(|init| !init.starts_with('/') || init.contains(char::is_control)) {
            return refused("its init is not a program's path".to_owned());
        }
        let single = [&config.working_dir, &config.user].into_iter().flatten();
        let several = [&config.env, &config.entrypoint, &config.cmd].into_iter().flatten();
        if single.chain(several).any(|word| word.contains('\0')) {
            return refused("its config has a NUL in it".to_owned());
        }
        Ok(manifest)
    }
}
