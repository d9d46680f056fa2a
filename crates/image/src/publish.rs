//! Files that appear complete or not at all: written to a temporary name in the same directory, synced, then renamed.

use std::fs::File;
use std::io;
use std::path::Path;

use tempfile::{NamedTempFile, TempPath};

use crate::ImageError;
use crate::error::IoContext;

/// Returns the directory that contains `path`.
pub(crate) fn parent_dir(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Creates a file beside `path`; dropping it before [`publish`] removes it.
pub(crate) fn create_temporary(path: &Path) -> Result<(File, TempPath), ImageError> {
    let dir = parent_dir(path);
    let file = NamedTempFile::with_prefix_in(".partial-", dir).during("create a temporary file in", dir)?;
    Ok(file.into_parts())
}

/// Syncs `file` and renames it to `path`, replacing an existing file.
pub(crate) fn publish(file: &File, temporary: TempPath, path: &Path) -> Result<(), ImageError> {
    file.sync_all().map_err(|source| write_error(source, path, 0))?;
    temporary.persist(path).map_err(|error| error.error).during("rename a temporary file to", path)
}

/// Returns the bytes available to an ordinary user in a directory.
pub(crate) fn available_space(dir: &Path) -> Result<u64, ImageError> {
    let stat = rustix::fs::statvfs(dir).during("read the free space of", dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Returns an error if a directory has less than `needed` bytes available.
pub(crate) fn require_space(dir: &Path, needed: u64) -> Result<(), ImageError> {
    let available = available_space(dir)?;
    if available < needed {
        return Err(ImageError::NoSpace { dir: dir.to_owned(), needed, available });
    }
    Ok(())
}

/// Creates the error for a failed write of at least `needed` bytes to `path`.
pub(crate) fn write_error(source: io::Error, path: &Path, needed: u64) -> ImageError {
    if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        let dir = parent_dir(path);
        return ImageError::NoSpace {
            dir: dir.to_owned(),
            needed,
            // The write has already failed; failing to get a figure must not hide that.
            available: available_space(dir).unwrap_or(0),
        };
    }
    ImageError::Io { operation: "write", path: path.to_owned(), source }
}
