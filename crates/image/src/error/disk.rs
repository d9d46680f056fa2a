//! Why a file system was refused.

use std::io;

use super::archive::EntryProblem;

/// Why a file system was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskProblem {
    /// Its file could not be read.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    /// It has no ext4 superblock.
    #[error("it is not an ext4 file system")]
    NotExt4,
    /// It was not unmounted, or a kernel has found errors in it.
    #[error("it is mounted, was not unmounted in order, or has errors: unmount it, and check it with e2fsck")]
    Unclean,
    /// The file is shorter than the file system in it.
    #[error("its file has {found} bytes, and the file system {expected}")]
    Short {
        /// Bytes of the file.
        found: u64,
        /// Bytes that the superblock promises.
        expected: u64,
    },
    /// It uses what is not understood here.
    #[error("it uses {0}, which banger does not read")]
    Unsupported(&'static str),
    /// A structure in it makes no sense.
    #[error("its {what} is damaged (inode {inode})")]
    Damaged {
        /// The structure.
        what: &'static str,
        /// Whose; 0 is nobody's.
        inode: u32,
    },
    /// Somebody else has written to it.
    #[error("it was changed meanwhile")]
    Changed,
    /// It has more than any real one.
    #[error("it has more than {limit} {what}")]
    TooMuch {
        /// What is counted.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// One thing in it is not acceptable.
    #[error("{path:?}: {problem}")]
    Entry {
        /// Where it is.
        path: String,
        /// What is wrong with it.
        problem: EntryProblem,
    },
}
