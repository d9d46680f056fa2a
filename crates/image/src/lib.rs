//! Verifies untrusted input and builds disks, kernels and initrds from it.
//!
//! All input (archives, packages, kernels, modules) is hostile until checked: sizes are capped, names and offsets are
//! checked before use, and no archive is unpacked by path onto the host's file system. The crate is synchronous:
//! bangerd calls it from separate threads.

mod archive;
mod bundle;
mod catalog;
mod codec;
mod confinement;
mod download;
mod error;
mod ext4;
mod import;
mod initrd;
mod kernel;
mod oci;
mod program;
mod progress;
mod publish;
mod rootfs;

pub use bundle::{BundleImage, BundleManifest, BundleReader, open_bundle, write_bundle};
pub use catalog::{
    Arch, Catalog, CatalogImage, CatalogKernel, Download, KernelSource, Location, MAX_CATALOG, Recipe,
    SignedCatalog, Source, Text, VerifiedCatalog, catalog, fetch_image, fetch_kernel, find_mmdebstrap,
};
pub use confinement::confinements;
pub use download::{DownloadRequest, download};
pub use error::{
    ArchiveError, BundleError, CatalogError, DiskProblem, EntryProblem, FailureKind, ImageError, KernelError,
    ManifestError, ModuleError, PackageError, RegistryError,
};
pub use import::{import_rootfs, import_rootfs_file};
pub use initrd::{InitrdInfo, build_initrd};
pub use kernel::{
    Bus, KernelDetails, KernelInfo, Presence, extract_vmlinux, import_kernel, kernel_details,
    kernel_supports_bus,
};
pub use oci::{
    Blobs, Descriptor, Document, Index, Layer, MAX_DOCUMENT, Manifest, Registries, RegistryHost, Remote,
    Timing, UnconfiguredManifest, parse_config, parse_document, parse_index, parse_manifest, pull_image,
};
pub use progress::{Progress, Silent};
#[doc(hidden)]
pub use rootfs::fuzzing;
pub use rootfs::{
    Disks, RootfsInfo, RootfsOptions, check_ext4, commit_rootfs, copy_rootfs, inspect_rootfs,
    write_empty_ext4,
};
