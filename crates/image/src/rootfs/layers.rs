//! An image's layers, put one over the other in memory and written as one file system.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use banger_api::Digest;

use super::index::{Index, Merge};
use super::spool::{Kind, spool};
use super::write::{RootfsInfo, RootfsOptions, write_tree};
use crate::progress::stopped_or;
use crate::{ImageError, Progress};

/// A layer, unpacked into a file that has no name.
#[derive(Debug)]
pub(crate) struct Unpacked {
    file: File,
    index: Index,
}

impl Unpacked {
    /// Unpacks a layer's tar, plain or packed, into a nameless file in `spool_dir`, and checks its members.
    ///
    /// # Errors
    /// When its unpacked bytes are others than `diff_id` says; else as [`import_rootfs`](super::import_rootfs).
    pub(crate) fn of(
        packed: impl Read,
        diff_id: Digest,
        spool_dir: &Path,
        progress: &dyn Progress,
    ) -> Result<Self, ImageError> {
        let spool = spool(packed, Kind::Layer, spool_dir, progress)?;
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

/// Makes an ext4 file `out` of `layers`, the lowest first. The same layers give the same bytes.
///
/// # Errors
/// As [`import_rootfs`](super::import_rootfs).
pub(crate) fn write_layers(
    layers: Vec<Unpacked>,
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
    stopped_or(progress, write_tree(&merge.tree(), &files, out, options, progress))
}
