//! Bundles: images in one file, for transfer between hosts.
//!
//! A bundle is a tar compressed with zstd, for `tar --zstd -x`: `manifest.json`, then `rootfs.ext4` as a sparse file
//! in GNU tar's format (its manual, "PAX Format, Version 1.0"). Times and owners are fixed, and holes are found by
//! content, not from the file: the same image gives the same bundle.

mod read;
mod runs;
#[cfg(test)]
mod tests;
mod write;

use banger_api::{Digest, ImageConfig, ImageName, Name, is_hidden};
use serde::{Deserialize, Serialize};

pub use read::{BundleReader, open_bundle};
pub use write::write_bundle;

use crate::archive::PATH_MAX;
use crate::error::BundleError;
use crate::error::bundle::{MANIFEST, ROOTFS};

/// Version of the format that banger writes, and the only version that it reads.
const VERSION: u32 = 1;

/// Maximum length of a manifest, in bytes.
const MAX_MANIFEST: u64 = 1 << 20;

/// Maximum size of a file system in bytes, holes included.
const MAX_ROOTFS: u64 = 1 << 40;

/// A bundle's manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleManifest {
    /// Version of the format.
    version: u32,
    /// The image's name.
    pub name: ImageName,
    /// The distribution's own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// The processor architecture.
    arch: String,
    /// The program that runs as PID 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<String>,
    /// The image's preferred kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Name>,
    /// The program to run, its arguments, environment, user and directory.
    #[serde(default)]
    pub config: ImageConfig,
    /// Number of files and directories.
    pub entries: u64,
    /// Size of the file system in bytes.
    size: u64,
    /// Digest of the file system, holes included.
    sha256: Digest,
}

/// An image's metadata for a bundle, without its bytes.
#[derive(Debug, Clone)]
pub struct BundleImage {
    /// The image's name.
    pub name: ImageName,
    /// The distribution's own name.
    pub os: Option<String>,
    /// The program that runs as PID 1.
    pub init: Option<String>,
    /// The image's preferred kernel.
    pub kernel: Option<Name>,
    /// The program to run, its arguments, environment, user and directory.
    pub config: ImageConfig,
    /// Number of files and directories.
    pub entries: u64,
}

impl BundleManifest {
    /// Returns the size of the file system in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Parses and validates a manifest.
    fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        let refused = |problem: String| Err(BundleError::Manifest(problem));
        let manifest: Self = match serde_json::from_slice(bytes) {
            Ok(manifest) => manifest,
            Err(error) => return refused(error.to_string()),
        };
        let Self { version, arch, size, os, init, config, .. } = &manifest;
        if *version != VERSION {
            return refused(format!("it has version {version}; only version {VERSION} is supported"));
        }
        if arch != "amd64" {
            return refused(format!("it is for {arch:?}; only \"amd64\" is supported"));
        }
        if *size == 0 || *size > MAX_ROOTFS {
            return refused(format!("a file system of {size} bytes is out of range"));
        }
        if os.as_deref().is_some_and(|os| os.chars().count() > 100 || os.contains(is_hidden)) {
            return refused("its os is longer than 100 characters or contains hidden characters".to_owned());
        }
        let is_path =
            |init: &str| init.starts_with('/') && init.len() <= PATH_MAX && !init.contains(is_hidden);
        if init.as_deref().is_some_and(|init| !is_path(init)) {
            return refused("its init is not a valid absolute path".to_owned());
        }
        let single = [&config.working_dir, &config.user].into_iter().flatten();
        let several = [&config.env, &config.entrypoint, &config.cmd].into_iter().flatten();
        if single.chain(several).any(|word| word.contains('\0')) {
            return refused("its config contains a NUL".to_owned());
        }
        if config.is_too_long() {
            return refused(format!("its config has more than {} bytes", ImageConfig::MAX));
        }
        Ok(manifest)
    }
}
