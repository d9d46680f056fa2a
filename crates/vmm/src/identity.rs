//! Which file is at a path, so that a replaced one is noticed.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

/// Which file is at a path: device, inode, and change time in seconds and nanoseconds.
pub(crate) type Identity = (u64, u64, i64, i64);

/// Returns which file is at `path`.
pub(crate) fn identity(path: &Path) -> Option<Identity> {
    let meta = fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec()))
}
