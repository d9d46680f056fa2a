//! The folder a kernel is imported into: fresh, filled by checked names only, emptied again when the import fails.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use super::modules::{MAX_FILES, MAX_MODULE};
use crate::ImageError;
use crate::error::IoContext;
use crate::publish::write_error;

/// Most bytes of all modules together; a distribution's full kernel has 400 MB.
const MAX_BYTES: u64 = 4 << 30;

/// A folder for one kernel. What was put there is removed again unless [`Destination::keep`] is called.
#[derive(Debug)]
pub(super) struct Destination<'a> {
    path: &'a Path,
    created: bool,
    kept: bool,
    files: usize,
    bytes: u64,
}

impl<'a> Destination<'a> {
    /// Makes `path`, or takes it over if it is empty.
    pub(super) fn new(path: &'a Path) -> Result<Self, ImageError> {
        let created = match fs::create_dir(path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if fs::read_dir(path).during("read", path)?.next().is_some() {
                    return Err(ImageError::NotEmpty { path: path.to_owned() });
                }
                false
            }
            Err(source) => return Err(ImageError::Io { operation: "create", path: path.to_owned(), source }),
        };
        Ok(Self { path, created, kept: false, files: 0, bytes: 0 })
    }

    pub(super) fn path(&self) -> &Path {
        self.path
    }

    /// The modules' folder, whether or not it is there.
    pub(super) fn modules(&self) -> PathBuf {
        self.path.join("modules")
    }

    /// Writes a file of the modules' tree. `relative` must be a plain relative path.
    ///
    /// The folder was empty and no symlink is ever made in it, so no path can lead out of it.
    pub(super) fn add_module_file(
        &mut self,
        relative: &Path,
        mut content: impl Read,
    ) -> Result<(), ImageError> {
        let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
        self.files += 1;
        let path = self.modules().join(relative);
        let refused = |what| {
            let source = io::Error::new(io::ErrorKind::InvalidInput, what);
            ImageError::Io { operation: "create", path: relative.to_owned(), source }
        };
        if !plain || relative.as_os_str().is_empty() {
            return Err(refused("not a plain relative path"));
        }
        if self.files > MAX_FILES {
            return Err(refused("too many files among the modules"));
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|source| write_error(source, folder, 0))?;
        }
        let mut file = File::create_new(&path).map_err(|source| write_error(source, &path, 0))?;
        let length = io::copy(&mut content.by_ref().take(MAX_MODULE + 1), &mut file)
            .map_err(|source| write_error(source, &path, 0))?;
        self.bytes += length;
        if length > MAX_MODULE || self.bytes > MAX_BYTES {
            return Err(refused("too large among the modules"));
        }
        Ok(())
    }

    /// Writes the kernel itself, and makes everything durable.
    pub(super) fn write_kernel(&self, vmlinux: &[u8]) -> Result<(), ImageError> {
        let path = self.path.join("vmlinux");
        fs::write(&path, vmlinux).map_err(|source| write_error(source, &path, vmlinux.len() as u64))?;
        // One call for the thousand files of a kernel's modules, where an fsync of each takes seconds.
        let folder = File::open(self.path).during("open", self.path)?;
        rustix::fs::syncfs(&folder).during("sync", self.path)
    }

    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Destination<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // The import has failed and its error is on its way; what can't be removed is swept by the caller with its folder.
        let _ = fs::remove_dir_all(self.modules());
        let _ = fs::remove_file(self.path.join("vmlinux"));
        if self.created {
            let _ = fs::remove_dir(self.path);
        }
    }
}
