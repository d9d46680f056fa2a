//! Programs in the guest's file system.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

/// Returns whether `path` is an executable file.
pub(crate) fn is_program(path: impl AsRef<Path>) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
