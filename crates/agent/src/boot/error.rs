//! Errors of the boot.

use std::{io, path::PathBuf};

/// A boot step that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum BootError {
    #[error("cannot {action} {}: {source}", path.display())]
    Path { action: &'static str, path: PathBuf, source: io::Error },
    #[error("disk {0} not found after {1} s")]
    NoDisk(PathBuf, u64),
    #[error("invalid argument {0:?} on the kernel command line")]
    CmdLine(String),
}

/// For `map_err`: adds the action and the path to an I/O error.
pub(super) fn failed<E: Into<io::Error>>(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(E) -> BootError {
    let path = path.into();
    move |error| BootError::Path { action, path, source: error.into() }
}
