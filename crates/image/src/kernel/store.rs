//! The directory into which a kernel is imported. It accepts only checked names, and is emptied if the import fails.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

use super::modules::MAX_FILES;
use crate::ImageError;
use crate::error::IoContext;
use crate::publish::write_error;

/// Maximum size of all modules together, in bytes; a distribution's full kernel has 400 MB.
const MAX_BYTES: u64 = 4 << 30;

/// A directory for one kernel. Dropping it removes its files, unless [`Destination::commit`] was called.
#[derive(Debug)]
pub(super) struct Destination<'a> {
    path: &'a Path,
    created: bool,
    committed: bool,
    files: usize,
    bytes: u64,
}

impl<'a> Destination<'a> {
    /// Creates the directory `path`, or uses an existing one without a kernel.
    pub(super) fn new(path: &'a Path) -> Result<Self, ImageError> {
        let created = match fs::create_dir(path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if ["vmlinux", "modules"].iter().any(|name| path.join(name).symlink_metadata().is_ok()) {
                    return Err(ImageError::NotEmpty { path: path.to_owned() });
                }
                false
            }
            Err(source) => return Err(ImageError::Io { operation: "create", path: path.to_owned(), source }),
        };
        Ok(Self { path, created, committed: false, files: 0, bytes: 0 })
    }

    /// Returns the path of the module directory, which may not exist.
    pub(super) fn modules(&self) -> PathBuf {
        self.path.join("modules")
    }

    /// Writes a file of the module tree. `relative` must be a plain relative path.
    ///
    /// This type creates the module directory and never a symlink in it, so no path can lead outside.
    pub(super) fn add_module_file(&mut self, relative: &Path, content: &[u8]) -> Result<(), ImageError> {
        let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
        self.files += 1;
        self.bytes += content.len() as u64;
        let path = self.modules().join(relative);
        let refused = |what| ImageError::KernelEntry { entry: relative.display().to_string(), problem: what };
        if !plain || relative.as_os_str().is_empty() {
            return Err(refused("is not a plain relative path"));
        }
        if self.files > MAX_FILES || self.bytes > MAX_BYTES {
            return Err(refused("exceeds the limits for the number and size of a kernel's modules"));
        }
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(|source| write_error(source, dir, 0))?;
        }
        let mut file = File::create_new(&path).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => refused("occurs twice"),
            _ => write_error(source, &path, 0),
        })?;
        file.write_all(content).map_err(|source| write_error(source, &path, content.len() as u64))
    }

    /// Writes the kernel's build configuration.
    pub(super) fn write_config(&self, content: &[u8]) -> Result<(), ImageError> {
        let path = self.path.join("config");
        fs::write(&path, content).map_err(|source| write_error(source, &path, content.len() as u64))
    }

    /// Writes the kernel itself, and syncs all files to disk.
    pub(super) fn write_kernel(&self, vmlinux: &[u8]) -> Result<(), ImageError> {
        let path = self.path.join("vmlinux");
        fs::write(&path, vmlinux).map_err(|source| write_error(source, &path, vmlinux.len() as u64))?;
        // One syncfs call for a thousand module files; an fsync of each takes seconds.
        let dir = File::open(self.path).during("open", self.path)?;
        rustix::fs::syncfs(&dir).during("sync", self.path)
    }

    pub(super) fn commit(mut self) {
        self.committed = true;
    }
}

impl Drop for Destination<'_> {
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        // The import's error is already being returned. The caller removes leftovers with their directory.
        let _ = fs::remove_dir_all(self.modules());
        let _ = fs::remove_file(self.path.join("vmlinux"));
        let _ = fs::remove_file(self.path.join("config"));
        if self.created {
            let _ = fs::remove_dir(self.path);
        }
    }
}
