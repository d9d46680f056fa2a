//! Creates an image from a VM's disks. No VM is booted and nothing is mounted: banger reads the file systems in place
//! and copies their bytes to the new one.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::check::check_ext4;
use super::overlay::{Disk, merged};
use super::write::{RootfsInfo, RootfsOptions, describe, write_tree};
use crate::error::IoContext;
use crate::progress::or_cancelled;
use crate::{ImageError, Progress};

/// The disks of a stopped VM. Nothing else may use them meanwhile.
#[derive(Debug, Clone)]
pub struct Disks {
    /// The root file system of the VM's image. It is only read.
    pub base: PathBuf,
    /// The VM's system overlay. It is checked, and repaired if its journal was not replayed.
    pub overlay: PathBuf,
    /// The VM's work disk, if it becomes `/root`. It is checked and repaired too.
    pub home: Option<PathBuf>,
}

/// Writes the VM's root, with all disks merged, to the ext4 file `out`.
///
/// Files that identify the machine are left out: its machine id, ssh's host keys, and the random seed. The same disks
/// give the same bytes.
///
/// # Errors
/// Returns an error if a file system is damaged or not supported; if something in it cannot be stored; if the disk is
/// full, `e2fsck` is missing, or `progress` is cancelled. `out` is then unchanged or missing.
pub fn commit_rootfs(
    disks: &Disks,
    out: &Path,
    options: &RootfsOptions,
    progress: &dyn Progress,
) -> Result<RootfsInfo, ImageError> {
    progress.stage("check the disks");
    for disk in [Some(&disks.overlay), disks.home.as_ref()].into_iter().flatten() {
        check_ext4(disk, progress)?;
    }
    progress.stage("read the disks");
    let paths = [Some(&disks.base), Some(&disks.overlay), disks.home.as_ref()].into_iter().flatten();
    let opened = paths.map(|path| Ok((path, File::open(path).during("open", path)?)));
    let opened = opened.collect::<Result<Vec<_>, ImageError>>()?;
    let disks = opened.iter().map(|(path, file)| Disk::open(path, file)).collect::<Result<Vec<_>, _>>()?;
    let tree = merged(&disks, progress)?;
    let files: Vec<&File> = opened.iter().map(|(_, file)| file).collect();
    or_cancelled(progress, write_tree(&tree, &files, out, options, progress))
}

/// Describes the ext4 file `path`. Reads all of its metadata.
///
/// # Errors
/// Returns the errors of [`commit_rootfs`].
pub fn inspect_rootfs(path: &Path, progress: &dyn Progress) -> Result<RootfsInfo, ImageError> {
    let file = File::open(path).during("open", path)?;
    let size = file.metadata().during("stat", path)?.len();
    let tree = merged(&[Disk::open(path, &file)?], progress)?;
    Ok(describe(&tree, &[&file], size))
}
