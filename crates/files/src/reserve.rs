//! Space that data from an untrusted sender leaves free on the receiver's file system.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::fs::{FileType, fstat, fstatvfs};

use crate::error::{UnpackError, failed};

/// Maximum number of bytes to leave free. On a small file system, its [`SHARE`] is less.
const MAX_RESERVE: u64 = 1 << 30;

/// Part of a file system that is left free, of its bytes and of its inodes.
const SHARE: u64 = 20;

/// Number of bytes after which the free space is measured again.
const INTERVAL: u64 = 16 << 20;

/// Number of bytes that an entry counts for: empty files and directories need space too.
const ENTRY_SIZE: u64 = 4096;

/// Space to leave free on the file system of a file or directory.
#[derive(Debug)]
pub(crate) struct Reserve {
    fd: OwnedFd,
    measure: Measure,
    /// Number of bytes written since the last measurement.
    unmeasured: u64,
}

/// Measures the file system of a descriptor.
type Measure = fn(&OwnedFd) -> io::Result<Usage>;

/// Total and free space of a file system.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    bytes: u64,
    free_bytes: u64,
    /// Zero if the file system has no fixed number of inodes.
    inodes: u64,
    free_inodes: u64,
}

impl Reserve {
    /// Returns the reserve on the file system of `fd`, or `None` if `fd` is neither a file nor a directory.
    pub(crate) fn on(fd: impl AsFd) -> io::Result<Option<Self>> {
        let kind = FileType::from_raw_mode(fstat(&fd)?.st_mode);
        if !matches!(kind, FileType::RegularFile | FileType::Directory) {
            return Ok(None);
        }
        let fd = fd.as_fd().try_clone_to_owned()?;
        Ok(Some(Self { fd, measure, unmeasured: 0 }))
    }

    /// Accounts for `bytes` that are about to be written to `path`.
    ///
    /// # Errors
    /// Returns `Reserved` if too little space is free.
    pub(crate) fn spend(&mut self, bytes: u64, path: &Path) -> Result<(), UnpackError> {
        self.unmeasured += bytes;
        if self.unmeasured < INTERVAL {
            return Ok(());
        }
        self.unmeasured = 0;
        let usage = (self.measure)(&self.fd).map_err(failed(path))?;
        if usage.is_low() {
            return Err(UnpackError::Reserved { path: path.to_owned(), reserve: usage.reserve() });
        }
        Ok(())
    }

    /// Accounts for a new entry at `path`.
    ///
    /// # Errors
    /// Returns `Reserved` if too little space is free.
    pub(crate) fn spend_entry(&mut self, path: &Path) -> Result<(), UnpackError> {
        self.spend(ENTRY_SIZE, path)
    }

    #[cfg(test)]
    pub(crate) fn with_measure(fd: OwnedFd, measure: Measure) -> Self {
        Self { fd, measure, unmeasured: 0 }
    }
}

impl Usage {
    #[cfg(test)]
    pub(crate) fn full() -> Self {
        Self { bytes: 1 << 40, free_bytes: 0, inodes: 0, free_inodes: 0 }
    }

    /// Returns the number of bytes to leave free.
    fn reserve(self) -> u64 {
        (self.bytes / SHARE).min(MAX_RESERVE)
    }

    fn is_low(self) -> bool {
        self.free_bytes < self.reserve() || self.free_inodes < self.inodes / SHARE
    }
}

fn measure(fd: &OwnedFd) -> io::Result<Usage> {
    let stat = fstatvfs(fd)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(Usage {
        bytes: bytes(stat.f_blocks),
        free_bytes: bytes(stat.f_bavail),
        inodes: stat.f_files,
        free_inodes: stat.f_favail,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_twentieth_and_at_most_a_gibibyte_stays_free() {
        let usage = |bytes, free_bytes| Usage { bytes, free_bytes, inodes: 0, free_inodes: 0 };
        for (usage, is_low) in [
            (usage(1000 * GIB, GIB), false),
            (usage(1000 * GIB, GIB - 1), true),
            (usage(GIB, GIB / 20), false),
            (usage(GIB, GIB / 20 - 1), true),
            (usage(0, 0), false),
            (Usage { inodes: 2000, free_inodes: 100, ..usage(GIB, GIB) }, false),
            (Usage { inodes: 2000, free_inodes: 99, ..usage(GIB, GIB) }, true),
        ] {
            assert_eq!(usage.is_low(), is_low, "{usage:?}");
        }
    }

    #[test]
    fn files_and_entries_both_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let fd = || OwnedFd::from(std::fs::File::open(path).unwrap());
        let full = || Reserve::with_measure(fd(), |_| Ok(Usage::full()));
        let error = full().spend(INTERVAL, path).unwrap_err().to_string();
        assert!(error.ends_with("less than 1024 MiB would stay free"), "{error}");
        let mut reserve = full();
        let entries = (0..INTERVAL).take_while(|_| reserve.spend_entry(path).is_ok()).count();
        assert_eq!(entries as u64, INTERVAL / ENTRY_SIZE - 1);
        Reserve::on(fd()).unwrap().unwrap().spend(INTERVAL, path).unwrap();
        let null = std::fs::File::options().write(true).open("/dev/null").unwrap();
        assert!(Reserve::on(null).unwrap().is_none());
    }
}
