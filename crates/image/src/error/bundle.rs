//! Errors of bundles.

use super::archive::ArchiveError;

/// Names of a bundle's members, in order.
pub(crate) const MANIFEST: &str = "manifest.json";
pub(crate) const ROOTFS: &str = "rootfs.ext4";

/// Reason for rejecting a bundle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The file is not compressed with zstd.
    #[error("it is not compressed with zstd")]
    NotZstd,
    /// The file is not a valid archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A member is not the expected one.
    #[error("expected the file {expected}, found {found}")]
    UnexpectedEntry {
        /// Name of the expected member.
        expected: &'static str,
        /// The member found.
        found: String,
    },
    /// The bundle has an excess member.
    #[error("unexpected {0}: a bundle contains only {MANIFEST} and {ROOTFS}")]
    ExtraEntry(String),
    /// The manifest is invalid.
    #[error("its {MANIFEST} is invalid: {0}")]
    Manifest(String),
    /// The file system's length differs from the manifest's.
    #[error("its {ROOTFS} has {found} bytes; its {MANIFEST} says {expected}")]
    Size {
        /// Length in the manifest, in bytes.
        expected: u64,
        /// Actual length, in bytes.
        found: u64,
    },
    /// The root file system is not a valid ext4 file system.
    #[error("its {ROOTFS} is not a valid ext4 file system: {0}")]
    FileSystem(String),
}
