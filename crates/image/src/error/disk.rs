//! Errors of file systems.

use std::io;

use super::archive::EntryProblem;

/// Reason for rejecting a file system.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskProblem {
    /// Reading the file failed.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    /// The file has no ext4 superblock.
    #[error("it is not an ext4 file system")]
    NotExt4,
    /// The file system was not unmounted, or a kernel has found errors in it.
    #[error("it is mounted, or it needs e2fsck: it was not unmounted cleanly or has errors")]
    Unclean,
    /// The file is shorter than its file system.
    #[error("its file has {found} bytes; the file system has {expected}")]
    Short {
        /// Length of the file, in bytes.
        found: u64,
        /// Length in the superblock, in bytes.
        expected: u64,
    },
    /// The file system uses an unsupported feature.
    #[error("it uses {0}, which banger does not support")]
    Unsupported(&'static str),
    /// A structure of the file system is invalid.
    #[error("its {what} is damaged (inode {inode})")]
    Damaged {
        /// The structure.
        what: &'static str,
        /// The structure's inode; 0 if it belongs to none.
        inode: u32,
    },
    /// Another process wrote to the file system.
    #[error("it changed while it was being read")]
    Changed,
    /// The file system exceeds a limit.
    #[error("it has more than {limit} {what}")]
    TooMuch {
        /// The unit counted.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// An entry is invalid.
    #[error("{path:?}: {problem}")]
    Entry {
        /// Path of the entry.
        path: String,
        /// The problem.
        problem: EntryProblem,
    },
}
