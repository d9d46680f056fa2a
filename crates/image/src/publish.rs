//! Files that appear complete or not at all: written under a temporary name beside their place, synced, renamed.

use std::fs::File;
use std::io;
use std::path::Path;

use tempfile::{NamedTempFile, TempPath};

use crate::ImageError;
use crate::error::IoContext;

/// The folder in which `path` lies.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// A new file beside `path`, removed again when dropped before [`publish`].
pub(crate) fn begin(path: &Path) -> Result<(File, TempPath), ImageError> {
    let folder = folder_of(path);
    let file =
        NamedTempFile::with_prefix_in(".partial-", folder).during("create a temporary file in", folder)?;
    Ok(file.into_parts())
}

/// Syncs `file` and gives it the name `path`, replacing what was there.
pub(crate) fn publish(file: &File, temporary: TempPath, path: &Path) -> Result<(), ImageError> {
    file.sync_all().map_err(|source| write_error(source, path, 0))?;
    temporary.persist(path).map_err(|error| error.error).during("rename a temporary file to", path)
}

/// Bytes an ordinary user can still write in `folder`.
pub(crate) fn available(folder: &Path) -> Result<u64, ImageError> {
    let stat = rustix::fs::statvfs(folder).during("ask for the free space of", folder)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Refuses work that would not fit into `folder`.
pub(crate) fn require_space(folder: &Path, needed: u64) -> Result<(), ImageError> {
    let available = available(folder)?;
    if available < needed {
        return Err(ImageError::NoSpace { folder: folder.to_owned(), needed, available });
    }
    Ok(())
}

/// The error for a failed write to `path`, where at least `needed` bytes were going to be written.
pub(crate) fn write_error(source: io::Error, path: &Path, needed: u64) -> ImageError {
    if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        let folder = folder_of(path);
        return ImageError::NoSpace {
            folder: folder.to_owned(),
            needed,
            // The write has failed already: a figure that can't be had must not hide that.
            available: available(folder).unwrap_or(0),
        };
    }
    ImageError::Io { operation: "write", path: path.to_owned(), source }
}
