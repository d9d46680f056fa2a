//! Merges an image's layers in memory and writes them as one file system.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use banger_api::Digest;

use super::index::{Index, Merge};
use super::spool::{Kind, spool};
use super::write::{RootfsInfo, RootfsOptions, write_tree};
use crate::progress::or_cancelled;
use crate::{ImageError, Progress};

/// A layer, unpacked into an unnamed file.
#[derive(Debug)]
pub(crate) struct UnpackedLayer {
    file: File,
    index: Index,
}

impl UnpackedLayer {
    /// Unpacks a layer's tar, plain or compressed, into an unnamed file in `spool_dir`, and checks its members.
    ///
    /// # Errors
    /// Returns an error if the unpacked bytes do not match `diff_id`, or for the reasons of
    /// [`import_rootfs`](super::import_rootfs).
    pub(crate) fn of(
        compressed: impl Read,
        diff_id: Digest,
        spool_dir: &Path,
        progress: &dyn Progress,
    ) -> Result<Self, ImageError> {
        let spool = spool(compressed, Kind::Layer, spool_dir, progress)?;
        if spool.digest != diff_id {
            return Err(ImageError::Digest {
                what: "an unpacked layer",
                expected: diff_id,
                found: spool.digest,
            });
        }
        let index = Index::of(&spool.file, progress)?;
        Ok(Self { file: spool.file, index })
    }
}

/// Writes the ext4 file `out` from `layers`, lowest first. The same layers give the same bytes.
///
/// # Errors
/// Returns the errors of [`import_rootfs`](super::import_rootfs).
pub(crate) fn write_layers(
    layers: Vec<UnpackedLayer>,
    out: &Path,
    options: &RootfsOptions,
    progress: &dyn Progress,
) -> Result<RootfsInfo, ImageError> {
    let mut merge = Merge::new();
    let mut files = Vec::with_capacity(layers.len());
    for layer in layers {
        merge.layer(layer.index)?;
        files.push(layer.file);
    }
    let files: Vec<&File> = files.iter().collect();
    or_cancelled(progress, write_tree(&merge.tree(), &files, out, options, progress))
}
