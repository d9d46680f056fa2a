//! The path that a receiver has requested. It decides the name and the kind of the copy; the sender does not.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use crate::{error::UnpackError, stream::Item};

/// A path to copy from a sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyRequest {
    path: PathBuf,
    follow: bool,
}

impl CopyRequest {
    /// Creates a request for `path`. With `follow`, a symbolic link at `path` is replaced by its target.
    pub fn new(path: &Path, follow: bool) -> Self {
        Self { path: path.to_owned(), follow }
    }

    /// Returns the name of the copy in a directory. It is empty if only the content is copied: of a path that ends in
    /// `.` or `..`, and of `/`.
    pub(crate) fn name(&self) -> &[u8] {
        let name = if matches!(self.last(), b"." | b"..") { None } else { self.path.file_name() };
        name.map(OsStr::as_bytes).unwrap_or_default()
    }

    /// Returns whether a link at the path is followed.
    pub(crate) fn follows_link(&self) -> bool {
        self.follow || self.is_directory()
    }

    /// Returns whether only a directory can be at the path, by its end: a slash, `.` or `..`.
    pub(crate) fn is_directory(&self) -> bool {
        matches!(self.last(), b"" | b"." | b"..")
    }

    /// Checks that the stream's first item is of a requested kind.
    pub(crate) fn check(&self, first: &Item) -> Result<(), UnpackError> {
        let (requested, received) = match first {
            Item::File(_) if self.is_directory() => ("a directory", "a file"),
            Item::Link(..) if self.is_directory() => ("a directory", "a symbolic link"),
            Item::Link(..) if self.follow => ("the target of a symbolic link", "a symbolic link"),
            _ => return Ok(()),
        };
        Err(UnpackError::OtherKind { requested, received })
    }

    /// Returns what follows the last slash.
    fn last(&self) -> &[u8] {
        self.path.as_os_str().as_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_path_decides_the_name_and_the_kind() {
        for (path, name, is_directory) in [
            ("a", "a", false),
            ("/x/report.txt", "report.txt", false),
            ("~", "~", false),
            ("x/.bashrc", ".bashrc", false),
            ("...", "...", false),
            ("x/a/", "a", true),
            ("x/a//", "a", true),
            ("a/./", "a", true),
            (".", "", true),
            ("a/.", "", true),
            ("..", "", true),
            ("a/..", "", true),
            ("a/../", "", true),
            ("/", "", true),
            ("//", "", true),
        ] {
            let request = CopyRequest::new(Path::new(path), false);
            assert_eq!((request.name(), request.is_directory()), (name.as_bytes(), is_directory), "{path}");
            assert_eq!(request.follows_link(), is_directory, "{path}");
        }
        assert!(CopyRequest::new(Path::new("a"), true).follows_link());
    }
}
