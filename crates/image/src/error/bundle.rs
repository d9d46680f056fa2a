//! Why a bundle was refused.

use super::archive::ArchiveError;

/// The names of a bundle's members, in their order.
pub(crate) const MANIFEST: &str = "manifest.json";
pub(crate) const ROOTFS: &str = "rootfs.ext4";

/// Why a bundle was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// It is packed otherwise, or not at all.
    #[error("it is not packed with zstd")]
    NotZstd,
    /// It is no sound archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// Something else is where a member has to be.
    #[error("{found} is where the file {expected} has to be")]
    Order {
        /// What has to be there.
        expected: &'static str,
        /// What is.
        found: String,
    },
    /// There is more in it than there may be.
    #[error("{0} is in it too: it may hold {MANIFEST} and {ROOTFS} only")]
    More(String),
    /// The manifest is none.
    #[error("its {MANIFEST} is not usable: {0}")]
    Manifest(String),
    /// The file system is not as long as the manifest says.
    #[error("its {ROOTFS} has {found} bytes, and not {expected} as its {MANIFEST} says")]
    Size {
        /// As the manifest says.
        expected: u64,
        /// As it is.
        found: u64,
    },
    /// What should be a file system is none.
    #[error("its {ROOTFS} is not a sound ext4 file system: {0}")]
    FileSystem(String),
}
