//! From an image in a registry to its file system.

use std::path::Path;

use super::{Blobs, Remote};
use crate::rootfs::{RootfsInfo, RootfsOptions, Unpacked, write_layers};
use crate::{ImageError, Progress};

/// Makes the ext4 file `out` of `remote`'s layers, which are unpacked while they come in. The same image gives the same
/// bytes.
///
/// The packed layers stay in `blobs`; unpacked, they are in nameless files in `spool_dir` meanwhile.
///
/// # Errors
/// When a layer cannot be had, is damaged or has an entry that is not acceptable; when disk or file system are too small;
/// when `progress` says to stop. Then there is no `out`, or the one that was there before.
pub fn pull_image(
    remote: &Remote,
    blobs: &Blobs,
    spool_dir: &Path,
    out: &Path,
    options: &RootfsOptions,
    progress: &dyn Progress,
) -> Result<RootfsInfo, ImageError> {
    let manifest = remote.manifest();
    let layers = remote.layers(blobs, progress, |index, packed| {
        Unpacked::of(packed, manifest.layers[index].diff_id, spool_dir, progress)
    })?;
    let info = write_layers(layers, out, options, progress)?;
    Ok(RootfsInfo { config: manifest.config.clone(), digest: Some(manifest.digest), ..info })
}
