//! Names of the files and directories that banger creates, each defined once.

use std::path::{Path, PathBuf};

use banger_api::{Dirs, Id};

/// Directories under the state directory whose entries are named by ids in the store.
pub(crate) const STORE_DIRS: [&str; 3] = ["vms", "images", "kernels"];

/// Prefix of the directories that hold files of another store, and files whose rows a power loss may have removed.
pub(crate) const SET_ASIDE_PREFIX: &str = "set-aside-";

/// Returns the path of the store's file.
pub(crate) fn store_file(dirs: &Dirs) -> PathBuf {
    dirs.state.join("store.db")
}

/// Returns the directory of the layers that pulls have downloaded.
pub(crate) fn blobs(dirs: &Dirs) -> PathBuf {
    dirs.cache.join("blobs")
}

/// Returns the directory of boot initrds.
pub(crate) fn initrds(dirs: &Dirs) -> PathBuf {
    dirs.cache.join("initrds")
}

/// The directory of a VM's disks and logs.
#[derive(Debug, Clone)]
pub(crate) struct VmDir(PathBuf);

impl VmDir {
    pub(crate) fn new(dirs: &Dirs, id: &Id) -> Self {
        Self(dirs.vm(id.as_str()))
    }

    #[cfg(test)]
    pub(crate) fn from_path(path: PathBuf) -> Self {
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The ext4 system overlay, writable, over the image.
    pub(crate) fn overlay(&self) -> PathBuf {
        self.0.join("overlay.ext4")
    }

    /// The ext4 work disk, mounted at `/root`.
    pub(crate) fn work_disk(&self) -> PathBuf {
        self.0.join("work.ext4")
    }

    /// The log of the guest's serial port.
    pub(crate) fn console_log(&self) -> PathBuf {
        self.0.join("console.log")
    }

    /// What its network was asked for, recorded by its gateway.
    pub(crate) fn flows(&self) -> PathBuf {
        self.0.join("flows.jsonl")
    }

    /// The log of what the VMM and its helpers write to standard error.
    pub(crate) fn vmm_log(&self) -> PathBuf {
        self.0.join("vmm.log")
    }
}

/// The directory of an image.
#[derive(Debug, Clone)]
pub(crate) struct ImageDir(PathBuf);

impl ImageDir {
    pub(crate) fn new(dirs: &Dirs, id: &Id) -> Self {
        Self(dirs.state.join("images").join(id.as_str()))
    }

    /// The directory of an image that is still being created.
    pub(crate) fn from_path(path: PathBuf) -> Self {
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The root file system: a file of banger's, or a symbolic link to a registered one.
    pub(crate) fn rootfs(&self) -> PathBuf {
        self.0.join("rootfs.ext4")
    }
}

/// The directory of a kernel.
#[derive(Debug, Clone)]
pub(crate) struct KernelDir(PathBuf);

impl KernelDir {
    pub(crate) fn new(dirs: &Dirs, id: &Id) -> Self {
        Self(dirs.state.join("kernels").join(id.as_str()))
    }

    /// The directory of a kernel that is still being created.
    pub(crate) fn from_path(path: PathBuf) -> Self {
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The uncompressed kernel.
    pub(crate) fn vmlinux(&self) -> PathBuf {
        self.0.join("vmlinux")
    }
}
