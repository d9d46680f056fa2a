//! Errors of this crate.
//!
//! They are in one module below all others, because [`ImageError`] contains each of them.

mod archive;
pub(crate) mod bundle;
mod catalog;
mod disk;
mod failure;
mod image;
mod kernel;
mod manifest;
mod package;
mod registry;

pub use archive::{ArchiveError, EntryProblem};
pub use bundle::BundleError;
pub use catalog::CatalogError;
pub use disk::DiskProblem;
pub use failure::FailureKind;
pub use image::ImageError;
pub use kernel::{KernelError, ModuleError};
pub use manifest::ManifestError;
pub use package::PackageError;
pub use registry::RegistryError;

pub(crate) use image::IoContext;
pub(crate) use registry::sanitised;
