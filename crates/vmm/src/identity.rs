//! Identity of the file at a path, to detect that it was replaced.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

/// Identity of a file: device, inode, and change time in seconds and nanoseconds.
pub(crate) type Identity = (u64, u64, i64, i64);

/// Returns the identity of the file at `path`.
pub(crate) fn identity(path: &Path) -> Option<Identity> {
    let meta = fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec()))
}
