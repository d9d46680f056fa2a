//! An image of what is on a VM's disks. No VM is booted for it and nothing is mounted: the file systems are read where
//! they are, and the new one gets its bytes from there.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::check::check_ext4;
use super::overlay::{Disk, merged};
use super::write::{RootfsInfo, RootfsOptions, describe, write_tree};
use crate::error::IoContext;
use crate::progress::stopped_or;
use crate::{ImageError, Progress};

/// The disks of a VM that is down, with which nobody does anything else meanwhile.
#[derive(Debug, Clone)]
pub struct Disks {
    /// Its image's root file system. It is only read.
    pub base: PathBuf,
    /// Its system overlay, which is checked, and mended if its journal was not played back.
    pub overlay: PathBuf,
    /// Its work disk, if that is to be `/root`; checked too.
    pub home: Option<PathBuf>,
}

/// Makes an ext4 file `out` of what the VM's root shows.
///
/// What tells one machine from another is left out: its machine id, ssh's host keys, and the seed of its random numbers.
/// The same disks give the same bytes.
///
/// # Errors
/// When a file system is damaged or of a kind that is not read; when something in it cannot be stored; when the disk is
/// full, `e2fsck` is missing, or `progress` says to stop. Then there is no `out`, or the one that was there before.
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
    stopped_or(progress, write_tree(&tree, &files, out, options, progress))
}

/// What is in the ext4 file `path`, all of which is read but for the files' bytes.
///
/// # Errors
/// As [`commit_rootfs`].
pub fn inspect_rootfs(path: &Path, progress: &dyn Progress) -> Result<RootfsInfo, ImageError> {
    let file = File::open(path).during("open", path)?;
    let size = file.metadata().during("look at", path)?.len();
    let tree = merged(&[Disk::open(path, &file)?], progress)?;
    Ok(describe(&tree, &[&file], size))
}
