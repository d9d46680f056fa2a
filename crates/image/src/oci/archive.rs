//! An image in a tar archive: an OCI image layout (OCI image specification, "Image Layout"), or the output of
//! `docker save`.
//!
//! Documents are verified against their digests, as a registry's are. Layers are verified only against their
//! `diff_id`s, which the documents name.

use std::path::Path;

use banger_api::{Digest, ImageConfig};
use serde::Deserialize;
use sha2::Digest as _;

use super::layers::each_layer;
use super::manifest::{Document, MAX_DOCUMENT, Manifest, parse_config, parse_document, parse_index};
use crate::archive::ArchiveError;
use crate::codec::{ReadError, read_limited};
use crate::error::ManifestError;
use crate::rootfs::{Archive, RootfsInfo, RootfsOptions, UnpackedLayer, write_layers};
use crate::{ImageError, Progress};

/// Maximum number of indexes that refer to one another.
const MAX_INDEXES: usize = 4;

/// One image in `manifest.json`, which `docker save` writes (its "Image JSON" notes).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    layers: Vec<String>,
}

/// An image in a tar archive.
#[derive(Debug)]
pub(crate) struct ImageArchive<'a> {
    archive: &'a Archive,
    digest: Option<Digest>,
    config: ImageConfig,
    /// Each layer's path and the digest of its uncompressed tar, lowest layer first.
    layers: Vec<(String, Digest)>,
}

impl<'a> ImageArchive<'a> {
    /// Returns the image in `archive`, or `None` if it holds something else.
    pub(crate) fn of(archive: &'a Archive) -> Result<Option<Self>, ImageError> {
        if archive.open("oci-layout").is_some() && archive.open("index.json").is_some() {
            return Self::from_layout(archive).map(Some);
        }
        let Some(bytes) = document(archive, "manifest.json")? else { return Ok(None) };
        // A root file system may also have a file of this name.
        let Ok(saved) = serde_json::from_slice::<Vec<SavedImage>>(&bytes) else { return Ok(None) };
        match <[SavedImage; 1]>::try_from(saved) {
            Ok([saved]) => Self::from_saved(archive, saved).map(Some),
            Err(saved) => Err(refused(ManifestError::Several(saved.len()))),
        }
    }

    fn from_layout(archive: &'a Archive) -> Result<Self, ImageError> {
        let mut index = parse_index(&required_document(archive, "index.json")?).map_err(refused)?;
        for _ in 0..MAX_INDEXES {
            let digest = index.only().map_err(refused)?.digest;
            match parse_document(&blob(archive, digest)?, digest).map_err(refused)? {
                Document::Index(next) => index = next,
                Document::Manifest(manifest) => {
                    let config = blob(archive, manifest.config().digest)?;
                    let Manifest { digest, layers, config } = manifest.configure(&config).map_err(refused)?;
                    let layers = layers.into_iter().map(|layer| (blob_path(layer.digest), layer.diff_id));
                    return Ok(Self { archive, digest: Some(digest), config, layers: layers.collect() });
                }
            }
        }
        Err(refused(ManifestError::TooMany { document: "image", unit: "indexes", limit: MAX_INDEXES as u64 }))
    }

    fn from_saved(archive: &'a Archive, saved: SavedImage) -> Result<Self, ImageError> {
        let (config, diff_ids) =
            parse_config(&required_document(archive, &saved.config)?).map_err(refused)?;
        if saved.layers.len() != diff_ids.len() {
            let (layers, diff_ids) = (saved.layers.len(), diff_ids.len());
            return Err(refused(ManifestError::LayerCount { layers, diff_ids }));
        }
        let layers = saved.layers.into_iter().zip(diff_ids).collect();
        Ok(Self { archive, digest: None, config, layers })
    }

    /// Writes the ext4 file `out`. The layers are first unpacked into unnamed files in `spool_dir`.
    pub(crate) fn write(
        self,
        spool_dir: &Path,
        out: &Path,
        options: &RootfsOptions,
        progress: &dyn Progress,
    ) -> Result<RootfsInfo, ImageError> {
        progress.stage("unpack the layers");
        let compressed =
            self.layers.iter().map(|(path, _)| self.archive.open(path).ok_or_else(|| missing(path)));
        let layers = each_layer(compressed.collect::<Result<_, _>>()?, progress, |index, compressed| {
            UnpackedLayer::of(compressed, self.layers[index].1, spool_dir, progress)
        })?;
        let info = write_layers(layers, out, options, progress)?;
        Ok(RootfsInfo { config: self.config, digest: self.digest, ..info })
    }
}

fn blob_path(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Reads a document by its digest and verifies it.
fn blob(archive: &Archive, digest: Digest) -> Result<Vec<u8>, ImageError> {
    let bytes = required_document(archive, &blob_path(digest))?;
    let found = Digest::sha256(sha2::Sha256::digest(&bytes).into());
    if found == digest {
        return Ok(bytes);
    }
    Err(ImageError::Digest { what: "a document in the archive", expected: digest, found })
}

fn required_document(archive: &Archive, path: &str) -> Result<Vec<u8>, ImageError> {
    document(archive, path)?.ok_or_else(|| missing(path))
}

fn document(archive: &Archive, path: &str) -> Result<Option<Vec<u8>>, ImageError> {
    let Some(file) = archive.open(path) else { return Ok(None) };
    read_limited(file, MAX_DOCUMENT).map(Some).map_err(|error| match error {
        ReadError::TooLarge => refused(ManifestError::TooMany {
            document: "document in the archive",
            unit: "bytes",
            limit: MAX_DOCUMENT,
        }),
        ReadError::Io(source) => ImageError::Archive(ArchiveError::Read(source)),
    })
}

fn missing(path: &str) -> ImageError {
    ImageError::ImageArchive(ManifestError::Missing(path.chars().take(200).collect()))
}

fn refused(error: ManifestError) -> ImageError {
    ImageError::ImageArchive(error)
}
