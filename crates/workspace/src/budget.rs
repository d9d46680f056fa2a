//! Limits on what a guest can make the host read, keep in memory and store.

use std::{path::Path, process::Child};

use rustix::{
    fs::statvfs,
    io::Errno,
    process::{Pid, Resource, Rlimit, getrlimit, prlimit},
};

use crate::{WorkspaceError, error::reading};

/// Limits on the data of one workspace. The default is far above honest work, and protects the host from the rest.
#[derive(Debug, Clone)]
pub struct Budget {
    /// Maximum size of the pack with the guest's objects, in bytes.
    pub objects: u64,
    /// Maximum size of all changed files together, in bytes.
    pub files: u64,
    /// Maximum size of each list that the guest's git prints, in bytes: half a million refs, or a million ids.
    pub git_output: usize,
    /// Maximum number of refs to create. Each is a file and a log in the user's repository.
    pub refs: usize,
    /// Maximum number of working trees that share the guest's repository.
    pub worktrees: usize,
    /// Maximum memory of git while it reads a guest's objects, in bytes. It needs a delta, its base and the result.
    pub memory: u64,
    /// Free space that remains on each file system, in bytes.
    pub reserve: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            objects: 16 << 30,
            files: 16 << 30,
            git_output: 64 << 20,
            refs: 20_000,
            worktrees: 500,
            memory: 4 << 30,
            reserve: 1 << 30,
        }
    }
}

impl Budget {
    /// Returns the space for new files in `dir`, in bytes.
    pub(crate) fn space(&self, dir: &Path) -> Result<u64, WorkspaceError> {
        let stat = statvfs(dir).map_err(|error| reading(dir)(error.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize).saturating_sub(self.reserve))
    }

    /// Checks that `size` more bytes fit into `dir`.
    pub(crate) fn check_space(&self, dir: &Path, size: u64) -> Result<(), WorkspaceError> {
        let free = self.space(dir)?;
        if size <= free { Ok(()) } else { Err(WorkspaceError::NoSpace { path: dir.to_owned(), size, free }) }
    }
}

/// Limits of a process that reads a guest's data.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ResourceLimits {
    /// Maximum size of each file that it writes, in bytes.
    pub(crate) file_size: u64,
    /// Maximum size of its writable memory, in bytes. Mapped packs do not count.
    pub(crate) memory: u64,
}

impl ResourceLimits {
    /// Applies the limits to `child`, and to the processes that it starts from now on.
    pub(crate) fn apply(self, child: &Child) -> Result<(), Errno> {
        let pid = Pid::from_child(child);
        for (resource, limit) in [(Resource::Fsize, self.file_size), (Resource::Data, self.memory)] {
            // An ordinary user cannot raise a limit that is in force.
            let limit = Some(getrlimit(resource).maximum.unwrap_or(u64::MAX).min(limit));
            prlimit(Some(pid), resource, Rlimit { current: limit, maximum: limit })?;
        }
        Ok(())
    }
}
