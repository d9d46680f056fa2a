//! Syncs, removes and measures files and directories on the host's disk.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use banger_api::Size;

use crate::{admission::with_existing_ancestor, error::EngineError};

/// The type of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileSystem {
    pub(crate) name: &'static str,
    /// Whether only one host can mount it at a time.
    pub(crate) is_local: bool,
}

/// Syncs a file or directory to the disk.
pub(crate) fn sync(path: &Path) -> Result<(), EngineError> {
    fs::File::open(path).and_then(|file| file.sync_all()).map_err(EngineError::file("sync", path))
}

/// Syncs a directory and all files in it to the disk.
pub(crate) fn sync_tree(dir: &Path) -> Result<(), EngineError> {
    for entry in fs::read_dir(dir).map_err(EngineError::file("read", dir))? {
        let entry = entry.map_err(EngineError::file("read", dir))?;
        let kind = entry.file_type().map_err(EngineError::file("stat", entry.path()))?;
        if kind.is_dir() {
            sync_tree(&entry.path())?;
        } else if kind.is_file() {
            sync(&entry.path())?;
        }
    }
    sync(dir)
}

/// Makes a finished file read-only, and syncs it to the disk.
pub(crate) fn seal(path: &Path) -> Result<(), EngineError> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o400))
        .map_err(EngineError::file("change the permissions of", path))?;
    sync(path)
}

/// Removes a directory and its contents, if it exists.
pub(crate) fn remove_dir(path: &Path) -> Result<(), EngineError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(EngineError::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Replaces a file, which has either content after a power loss.
pub(crate) fn replace_durably(path: &Path, content: &str) -> Result<(), EngineError> {
    let partial = path.with_extension("partial");
    fs::write(&partial, content).map_err(EngineError::file("write", &partial))?;
    sync(&partial)?;
    fs::rename(&partial, path).map_err(EngineError::file("write", path))?;
    sync(path.parent().unwrap_or(Path::new("/")))
}

/// Returns the disk space that a file or directory tree uses.
pub(crate) fn disk_usage(path: &Path) -> Size {
    fn blocks(path: &Path) -> u64 {
        let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
        let inside = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| blocks(&entry.path()));
        meta.blocks() + if meta.is_dir() { inside.sum() } else { 0 }
    }
    // In units of 512 bytes, independent of the file system's block size (stat(2)).
    Size::bytes(blocks(path) * 512)
}

/// Returns the type of the file system that contains `path`, or will contain it. `None` if it is not a known one.
pub(crate) fn file_system(path: &Path) -> Option<FileSystem> {
    let magic = with_existing_ancestor(path, |path| Ok(rustix::fs::statfs(path)?.f_type)).ok()?;
    let local = |name| Some(FileSystem { name, is_local: true });
    let shared = |name| Some(FileSystem { name, is_local: false });
    // statfs(2) and linux/magic.h.
    match magic & 0xffff_ffff {
        0xef53 => local("ext4"),
        0x5846_5342 => local("xfs"),
        0x9123_683e => local("btrfs"),
        0x0102_1994 => local("tmpfs"),
        0x794c_7630 => local("overlayfs"),
        0x2fc1_2fc1 => local("zfs"),
        0xf2f5_2010 => local("f2fs"),
        0xca45_1a4e => local("bcachefs"),
        0x6969 => shared("NFS"),
        0x0102_1997 => shared("9p"),
        0x6573_5546 => shared("FUSE"),
        0xff53_4d42 | 0xfe53_4d42 => shared("SMB"),
        _ => None,
    }
}
