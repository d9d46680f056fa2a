//! An image in a tar: an OCI image layout (OCI image specification, "Image Layout"), or what `docker save` writes.
//!
//! Its documents are held against their digests as a registry's are; its layers only against their `diff_id`s, which
//! those name.

use std::path::Path;

use banger_api::{Digest, ImageConfig};
use serde::Deserialize;
use sha2::Digest as _;

use super::layers::each_layer;
use super::manifest::{Document, LONGEST_DOCUMENT, Manifest, parse_config, parse_document, parse_index};
use crate::archive::ArchiveError;
use crate::codec::{ReadError, read_limited};
use crate::error::ManifestError;
use crate::rootfs::{Archive, RootfsInfo, RootfsOptions, Unpacked, write_layers};
use crate::{ImageError, Progress};

/// Most indexes that lead from one to another.
const MOST_INDEXES: usize = 4;

/// One of the images that `docker save` writes (its "Image JSON" notes: `manifest.json`).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    layers: Vec<String>,
}

/// An image in a tar.
#[derive(Debug)]
pub(crate) struct ImageArchive<'a> {
    archive: &'a Archive,
    digest: Option<Digest>,
    config: ImageConfig,
    /// Where each layer is, and the digest of its tar, from the lowest to the uppermost.
    layers: Vec<(String, Digest)>,
}

impl<'a> ImageArchive<'a> {
    /// The image that `archive` holds; `None` when it is something else.
    pub(crate) fn of(archive: &'a Archive) -> Result<Option<Self>, ImageError> {
        if archive.open("oci-layout").is_some() && archive.open("index.json").is_some() {
            return Self::of_layout(archive).map(Some);
        }
        let Some(bytes) = document(archive, "manifest.json")? else { return Ok(None) };
        // A root file system may well have a file of that name.
        let Ok(saved) = serde_json::from_slice::<Vec<Saved>>(&bytes) else { return Ok(None) };
        match <[Saved; 1]>::try_from(saved) {
            Ok([saved]) => Self::of_saved(archive, saved).map(Some),
            Err(saved) => Err(refused(ManifestError::Several(saved.len()))),
        }
    }

    fn of_layout(archive: &'a Archive) -> Result<Self, ImageError> {
        let mut index = parse_index(&needed(archive, "index.json")?).map_err(refused)?;
        for _ in 0..MOST_INDEXES {
            let chosen = index.only().map_err(refused)?.digest;
            match parse_document(&blob(archive, chosen)?, chosen).map_err(refused)? {
                Document::Index(next) => index = next,
                Document::Manifest(manifest) => {
                    let config = blob(archive, manifest.config().digest)?;
                    let Manifest { digest, layers, config } = manifest.configure(&config).map_err(refused)?;
                    let layers = layers.into_iter().map(|layer| (path_of(layer.digest), layer.diff_id));
                    return Ok(Self { archive, digest: Some(digest), config, layers: layers.collect() });
                }
            }
        }
        Err(refused(ManifestError::TooMany {
            document: "image",
            unit: "indexes",
            limit: MOST_INDEXES as u64,
        }))
    }

    fn of_saved(archive: &'a Archive, saved: Saved) -> Result<Self, ImageError> {
        let (config, diff_ids) = parse_config(&needed(archive, &saved.config)?).map_err(refused)?;
        if saved.layers.len() != diff_ids.len() {
            let (layers, diff_ids) = (saved.layers.len(), diff_ids.len());
            return Err(refused(ManifestError::LayerCount { layers, diff_ids }));
        }
        let layers = saved.layers.into_iter().zip(diff_ids).collect();
        Ok(Self { archive, digest: None, config, layers })
    }

    /// Makes the ext4 file `out` of it, its layers unpacked into nameless files in `spool_dir` meanwhile.
    pub(crate) fn write(
        self,
        spool_dir: &Path,
        out: &Path,
        options: &RootfsOptions,
        progress: &dyn Progress,
    ) -> Result<RootfsInfo, ImageError> {
        progress.stage("unpack the layers");
        let packed = self.layers.iter().map(|(path, _)| self.archive.open(path).ok_or_else(|| missing(path)));
        let layers = each_layer(packed.collect::<Result<_, _>>()?, progress, |index, packed| {
            Unpacked::of(packed, self.layers[index].1, spool_dir, progress)
        })?;
        let info = write_layers(layers, out, options, progress)?;
        Ok(RootfsInfo { config: self.config, digest: self.digest, ..info })
    }
}

fn path_of(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A document that is named by its digest.
fn blob(archive: &Archive, digest: Digest) -> Result<Vec<u8>, ImageError> {
    let bytes = needed(archive, &path_of(digest))?;
    let found = Digest::sha256(sha2::Sha256::digest(&bytes).into());
    if found == digest {
        return Ok(bytes);
    }
    Err(ImageError::Digest { what: "a document in the archive", expected: digest, found })
}

fn needed(archive: &Archive, path: &str) -> Result<Vec<u8>, ImageError> {
    document(archive, path)?.ok_or_else(|| missing(path))
}

fn document(archive: &Archive, path: &str) -> Result<Option<Vec<u8>>, ImageError> {
    let Some(file) = archive.open(path) else { return Ok(None) };
    read_limited(file, LONGEST_DOCUMENT).map(Some).map_err(|error| match error {
        ReadError::TooLarge => refused(ManifestError::TooMany {
            document: "document in the archive",
            unit: "bytes",
            limit: LONGEST_DOCUMENT,
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
