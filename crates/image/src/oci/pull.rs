//! Pulls an image from a registry into a file system.

use std::path::Path;

use super::{Blobs, Remote};
use crate::rootfs::{RootfsInfo, RootfsOptions, UnpackedLayer, write_layers};
use crate::{ImageError, Progress};

/// Writes the ext4 file `out` from the layers of `remote`, and unpacks them while they download.
///
/// The same image always gives the same bytes. The compressed layers stay in `blobs`. The unpacked ones are unnamed
/// files in `spool_dir` until `out` is written.
///
/// # Errors
/// Returns an error if a layer cannot be downloaded, is damaged or has an entry that is not acceptable; if the disk
/// or the file system is too small; or if `progress` is cancelled. `out` is then unchanged or missing.
pub fn pull_image(
    remote: &Remote,
    blobs: &Blobs,
    spool_dir: &Path,
    out: &Path,
    options: &RootfsOptions,
    progress: &dyn Progress,
) -> Result<RootfsInfo, ImageError> {
    let manifest = remote.manifest();
    let layers = remote.layers(blobs, progress, |index, compressed| {
        UnpackedLayer::of(compressed, manifest.layers[index].diff_id, spool_dir, progress)
    })?;
    let info = write_layers(layers, out, options, progress)?;
    Ok(RootfsInfo { config: manifest.config.clone(), digest: Some(manifest.digest), ..info })
}
