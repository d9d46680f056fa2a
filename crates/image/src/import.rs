//! Imports a user's archive: a root file system's tar, or an image.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::oci::ImageArchive;
use crate::progress::or_cancelled;
use crate::rootfs::{Archive, RootfsInfo, RootfsOptions};
use crate::{ImageError, Progress};

/// Creates an ext4 file `out` from a tar of a root file system or of an image.
///
/// The tar may be compressed with gzip, zstd or xz. An image's tar is an OCI image layout or written by
/// `docker save`. The same tar gives the same bytes. An unnamed file in `spool_dir` holds the decompressed tar during
/// the import. Later entries replace earlier ones of the same name. Extended attributes that ext4 cannot store are
/// left out, and so is `/lost+found`.
///
/// # Errors
/// Returns an error if the archive is damaged or has an invalid entry; if the disk or the file system is too small;
/// if `progress` cancels. `out` is then unchanged.
pub fn import_rootfs(
    input: impl Read,
    spool_dir: &Path,
    out: &Path,
    options: &RootfsOptions,
    progress: &dyn Progress,
) -> Result<RootfsInfo, ImageError> {
    let archive = Archive::of(input, spool_dir, progress);
    or_cancelled(progress, archive.and_then(|archive| write(&archive, spool_dir, out, options, progress)))
}

/// As [`import_rootfs`], from a file. An uncompressed tar is not copied to `spool_dir`.
///
/// If another process writes to the file during the import, the image contains what was read, as far as it is valid.
///
/// # Errors
/// As [`import_rootfs`]; also if `tar` is not a regular file.
pub fn import_rootfs_file(
    tar: File,
    spool_dir: &Path,
    out: &Path,
    options: &RootfsOptions,
    progress: &dyn Progress,
) -> Result<RootfsInfo, ImageError> {
    let archive = Archive::of_file(tar, spool_dir, progress);
    or_cancelled(progress, archive.and_then(|archive| write(&archive, spool_dir, out, options, progress)))
}

fn write(
    archive: &Archive,
    spool_dir: &Path,
    out: &Path,
    options: &RootfsOptions,
    progress: &dyn Progress,
) -> Result<RootfsInfo, ImageError> {
    match ImageArchive::of(archive)? {
        Some(image) => image.write(spool_dir, out, options, progress),
        None => archive.write(out, options, progress),
    }
}
