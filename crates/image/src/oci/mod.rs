//! Images in OCI registries: found by name, fetched layer by layer into a cache of blobs.
//!
//! [`Remote`] is one image. `source` asks its registry and that one's mirrors, each of which is a `host`; `fetch` brings
//! one layer into the [`Blobs`], and whoever unpacks it follows the `growing` file. Nothing that a registry says is
//! believed but what has the right digest.

mod archive;
mod blobs;
mod challenge;
mod fetch;
mod growing;
mod host;
mod layers;
mod manifest;
mod meter;
mod pull;
mod registries;
mod remote;
mod source;
#[cfg(test)]
mod tests;

pub use blobs::Blobs;
pub use manifest::{
    Descriptor, Document, Index, LONGEST_DOCUMENT, Layer, Manifest, Unconfigured, parse_config,
    parse_document, parse_index, parse_manifest,
};
pub use registries::{Registries, RegistryHost, Timing};
pub use remote::Remote;

pub(crate) use crate::error::RegistryError;
pub(crate) use archive::ImageArchive;
pub use pull::pull_image;
pub(crate) use remote::Driver;
pub(crate) use source::Tries;
