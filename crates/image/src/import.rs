//! What a user brings: a root file system's tar, or an image in an archive.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::oci::ImageArchive;
use crate::progress::stopped_or;
use crate::rootfs::{Archive, RootfsInfo, RootfsOptions};
use crate::{ImageError, Progress};

/// Makes an ext4 file `out` of a tar, plain or packed with gzip, zstd or xz: of a root file system's, or of an image's, as
/// an OCI image layout or as `docker save` writes it. The same tar gives the same bytes.
///
/// The unpacked tar is kept in a nameless file in `spool_dir` meanwhile. Later entries replace earlier ones of the same
/// name. Extended attributes that ext4 has no place for are left out, and a `/lost+found` too.
///
/// # Errors
/// When the archive is damaged, or an entry of it is not acceptable; when disk or file system are too small; when
/// `progress` says to stop. Then there is no `out`, or the one that was there before.
pub fn import_rootfs(
    input: impl Read,
    spool_dir: &Path,
    out: &Path,
    options: &RootfsOptions,
    progress: &dyn Progress,
) -> Result<RootfsInfo, ImageError> {
    let archive = Archive::of(input, spool_dir, progress);
    stopped_or(progress, archive.and_then(|archive| write(&archive, spool_dir, out, options, progress)))
}

/// The same, of a file. One that is not packed is read where it is.
///
/// Others may write to the file meanwhile: what is in the image is then what was read, as far as it makes sense.
///
/// # Errors
/// As [`import_rootfs`]; when it is no regular file.
pub fn import_rootfs_file(
    tar: File,
    spool_dir: &Path,
    out: &Path,
    options: &RootfsOptions,
    progress: &dyn Progress,
) -> Result<RootfsInfo, ImageError> {
    let archive = Archive::of_file(tar, spool_dir, progress);
    stopped_or(progress, archive.and_then(|archive| write(&archive, spool_dir, out, options, progress)))
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
