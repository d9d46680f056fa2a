//! Pulls images from OCI registries into a cache of blobs.
//!
//! [`Remote`] is one image. `source` queries its registry and the mirrors, each of which is a `host`. `fetch`
//! downloads one layer to the [`Blobs`], and its reader follows the `growing` file. Nothing from a registry is
//! trusted unless its digest matches.

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
    Descriptor, Document, Index, Layer, MAX_DOCUMENT, Manifest, UnconfiguredManifest, parse_config,
    parse_document, parse_index, parse_manifest,
};
pub use registries::{Registries, RegistryHost, Timing};
pub use remote::Remote;

pub(crate) use crate::error::RegistryError;
pub(crate) use archive::ImageArchive;
pub use pull::pull_image;
pub(crate) use remote::Driver;
pub(crate) use source::Retries;
