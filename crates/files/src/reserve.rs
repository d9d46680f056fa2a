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

/// Maximum number of bytes after which the free space is measured again: less than half of the reserve.
const MAX_INTERVAL: u64 = 16 << 20;

/// Number of bytes that an entry counts for: empty files and directories need space too.
const ENTRY_SIZE: u64 = 4096;

/// Space to leave free on the file system of a file or directory.
#[derive(Debug)]
pub(crate) struct Reserve {
    fd: OwnedFd,
    measure: Measure,
    /// Number of bytes between two measurements.
    interval: u64,
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
        Self::new(fd.as_fd().try_clone_to_owned()?, measure).map(Some)
    }

    pub(crate) fn new(fd: OwnedFd, measure: Measure) -> io::Result<Self> {
        let interval = MAX_INTERVAL.min(measure(&fd)?.reserved_bytes() / 2);
        Ok(Self { fd, measure, interval, unmeasured: 0 })
    }

    /// Accounts for `bytes` that are about to be written to `path`.
    ///
    /// # Errors
    /// Returns `Reserved` if too little space is free.
    pub(crate) fn spend(&mut self, bytes: u64, path: &Path) -> Result<(), UnpackError> {
        self.unmeasured += bytes;
        if self.unmeasured < self.interval {
            return Ok(());
        }
        self.unmeasured = 0;
        match (self.measure)(&self.fd).map_err(failed(path))?.shortage() {
            Some(reserve) => Err(UnpackError::Reserved { path: path.to_owned(), reserve }),
            None => Ok(()),
        }
    }

    /// Accounts for a new entry at `path`.
    ///
    /// # Errors
    /// Returns `Reserved` if too little space is free.
    pub(crate) fn spend_entry(&mut self, path: &Path) -> Result<(), UnpackError> {
        self.spend(ENTRY_SIZE, path)
    }
}

impl Usage {
    #[cfg(test)]
    pub(crate) fn full() -> Self {
        Self { bytes: 1 << 40, free_bytes: 0, inodes: 0, free_inodes: 0 }
    }

    /// Returns the number of bytes to leave free.
    fn reserved_bytes(self) -> u64 {
        (self.bytes / SHARE).min(MAX_RESERVE)
    }

    /// Returns the reserve, for a message, if less than it is free.
    fn shortage(self) -> Option<String> {
        let inodes = self.inodes / SHARE;
        if self.free_bytes < self.reserved_bytes() {
            Some(format!("{} MiB", self.reserved_bytes() >> 20))
        } else if self.free_inodes < inodes {
            Some(format!("{inodes} inodes"))
        } else {
            None
        }
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
        for (usage, shortage) in [
            (usage(1000 * GIB, GIB), None),
            (usage(1000 * GIB, GIB - 1), Some("1024 MiB")),
            (usage(GIB, GIB / 20), None),
            (usage(GIB, GIB / 20 - 1), Some("51 MiB")),
            (usage(0, 0), None),
            (Usage { inodes: 2000, free_inodes: 100, ..usage(GIB, GIB) }, None),
            (Usage { inodes: 2000, free_inodes: 99, ..usage(GIB, GIB) }, Some("100 inodes")),
        ] {
            assert_eq!(usage.shortage().as_deref(), shortage, "{usage:?}");
        }
    }

    #[test]
    fn files_and_entries_both_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let fd = || OwnedFd::from(std::fs::File::open(path).unwrap());
        let full = || Reserve::new(fd(), |_| Ok(Usage::full())).unwrap();
        let error = full().spend(MAX_INTERVAL, path).unwrap_err().to_string();
        assert!(error.ends_with("less than 1024 MiB would stay free"), "{error}");
        let mut reserve = full();
        let entries = (0..MAX_INTERVAL).take_while(|_| reserve.spend_entry(path).is_ok()).count();
        assert_eq!(entries as u64, MAX_INTERVAL / ENTRY_SIZE - 1);
        // A small file system is measured more often.
        let small = |_: &OwnedFd| Ok(Usage { bytes: 200 << 20, ..Usage::full() });
        let mut reserve = Reserve::new(fd(), small).unwrap();
        reserve.spend((5 << 20) - 1, path).unwrap();
        assert!(reserve.spend(1, path).is_err());
        let null = std::fs::File::options().write(true).open("/dev/null").unwrap();
        assert!(Reserve::on(null).unwrap().is_none());
    }
}
