//! Errors of archives and their entries.

use std::io;

/// Reason for rejecting a tar archive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// Reading or decompressing the archive failed.
    #[error("the archive cannot be read")]
    Read(#[source] io::Error),
    /// The first block is not a tar header.
    #[error("not a tar archive")]
    NotTar,
    /// The archive has no bytes.
    #[error("the archive is empty")]
    Empty,
    /// The archive ends inside an entry, or without the block of zeros that marks its end.
    #[error("the archive is truncated after {after}")]
    Truncated {
        /// The last entry read, or "the start".
        after: String,
    },
    /// An entry is invalid.
    #[error("entry {entry:?}: {problem}")]
    Entry {
        /// The entry's name, with invalid UTF-8 replaced.
        entry: String,
        /// The problem.
        problem: EntryProblem,
    },
    /// The archive decompresses to far more than any real one.
    #[error("the archive decompresses to more than {ratio} times its size: a decompression bomb")]
    Bomb {
        /// The limit.
        ratio: u64,
    },
    /// The archive exceeds a limit.
    #[error("the archive has more than {limit} {what}")]
    TooMuch {
        /// The unit counted.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
}

/// Reason for rejecting an entry of an archive.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryProblem {
    /// The header's checksum or a number in it is wrong.
    #[error("damaged header ({0})")]
    Header(&'static str),
    /// A PAX extended header is malformed.
    #[error("malformed extended header")]
    Pax,
    /// A long name or extended header is over its limit.
    #[error("extended header of {size} bytes, over the limit of {limit}")]
    ExtensionTooLong {
        /// The size in the header, in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The name, or the link target, is not UTF-8.
    #[error("{0} is not UTF-8")]
    NotUtf8(&'static str),
    /// The name, or the link target, is empty.
    #[error("{0} is empty")]
    EmptyName(&'static str),
    /// The name, or the link target, contains a NUL.
    #[error("{0} contains a NUL")]
    Nul(&'static str),
    /// A file name is over 255 bytes, or a path or target over 4095.
    #[error("{0} is too long")]
    TooLong(&'static str),
    /// The name, or the hard link's target, contains `..`.
    #[error("{0} contains \"..\"")]
    DotDot(&'static str),
    /// The entry's type does not exist in a root file system.
    #[error("unsupported type {0:?}")]
    Type(char),
    /// The entry's parent is not a directory.
    #[error("its parent {0:?} is not a directory")]
    ParentNotDirectory(String),
    /// The entry's parent is reached through a symlink that leaves the root, dangles or loops.
    #[error("its parent is behind the symlink {0:?}, which does not lead to a directory in the archive")]
    ParentLink(String),
    /// A hard link's target does not precede it in the archive.
    #[error("hard link to {0:?}, which does not precede it in the archive")]
    LinkTarget(String),
    /// A hard link to a directory.
    #[error("hard link to the directory {0:?}")]
    LinkToDirectory(String),
    /// More hard links to a file than ext4 can count.
    #[error("more than {0} hard links to one file")]
    TooManyLinks(u32),
    /// A sparse map overlaps, is not in order, or does not fit the sizes.
    #[error("malformed sparse map")]
    Sparse,
    /// A file is larger than ext4 can hold.
    #[error("file of {0} bytes, larger than ext4 can hold")]
    FileTooLarge(u64),
    /// Device numbers are larger than ext4 can store.
    #[error("device number {0}:{1} out of range")]
    Device(u32, u32),
    /// An owner id has more than 32 bits.
    #[error("owner {0} out of range")]
    Owner(u64),
    /// Extended attributes do not fit beside the inode, or an access control list is malformed.
    #[error("extended attribute {0:?} cannot be stored")]
    Xattr(String),
    /// A whiteout names nothing, its own directory or the parent directory.
    #[error("whiteout without a valid name")]
    Whiteout,
    /// Directories are nested too deeply.
    #[error("directories nested more than {0} levels deep")]
    TooDeep(u32),
}
