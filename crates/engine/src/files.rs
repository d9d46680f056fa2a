//! Syncs, removes and measures files and directories on the host's disk.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use banger_api::Size;

use crate::error::EngineError;

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
