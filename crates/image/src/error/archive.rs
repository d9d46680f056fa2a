//! Why an archive or an entry in it was refused.

use std::io;

/// Why a tar archive was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The bytes could not be read or unpacked.
    #[error("the archive cannot be read")]
    Read(#[source] io::Error),
    /// The first block is no tar header.
    #[error("not a tar archive")]
    NotTar,
    /// Nothing at all in it.
    #[error("the archive is empty")]
    Empty,
    /// It ends inside an entry, or without the block of zeros that marks its end.
    #[error("the archive is truncated after {after}")]
    Truncated {
        /// The last entry seen, or "the start".
        after: String,
    },
    /// One entry is not acceptable.
    #[error("entry {entry:?}: {problem}")]
    Entry {
        /// Its name, with what is not UTF-8 replaced.
        entry: String,
        /// What is wrong with it.
        problem: EntryProblem,
    },
    /// It unpacks to far more than any real one.
    #[error("the archive unpacks to more than {ratio} times its size: it was made to fill disks")]
    Bomb {
        /// The limit.
        ratio: u64,
    },
    /// The archive as a whole is beyond a limit.
    #[error("the archive has more than {limit} {what}")]
    TooMuch {
        /// What is counted.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
}

/// What is wrong with one entry of an archive.
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
        /// What the header promises, in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The name, or a link's target, is not UTF-8.
    #[error("{0} is not UTF-8")]
    NotUtf8(&'static str),
    /// The name, or a link's target, is empty.
    #[error("{0} is empty")]
    EmptyName(&'static str),
    /// The name, or a link's target, has a NUL in it.
    #[error("{0} has a NUL in it")]
    Nul(&'static str),
    /// A file name over 255 bytes, or a path or target over 4095.
    #[error("{0} is too long")]
    TooLong(&'static str),
    /// A `..` in the name or in a hard link's target.
    #[error("{0} has \"..\" in it")]
    DotDot(&'static str),
    /// An entry of a type that a root file system does not have.
    #[error("unsupported type {0:?}")]
    Type(char),
    /// Its parent is no folder.
    #[error("its parent {0:?} is not a folder")]
    ParentNotFolder(String),
    /// Its parent is reached through a symlink that leads out of the root, to nothing, or round in circles.
    #[error("its parent is behind the symlink {0:?}, which leads nowhere inside the archive")]
    ParentLink(String),
    /// A hard link whose target has not come before it.
    #[error("hard link to {0:?}, which is not in the archive before it")]
    LinkTarget(String),
    /// A hard link to a folder.
    #[error("hard link to the folder {0:?}")]
    LinkToFolder(String),
    /// More hard links than ext4 can count.
    #[error("more than {0} hard links to one file")]
    TooManyLinks(u32),
    /// A sparse map that overlaps, runs backwards, or does not fit the sizes.
    #[error("malformed sparse map")]
    Sparse,
    /// A file larger than ext4 can hold.
    #[error("file of {0} bytes, larger than ext4 can hold")]
    FileTooLarge(u64),
    /// Device numbers beyond what ext4 stores.
    #[error("device number {0}:{1} out of range")]
    Device(u32, u32),
    /// An owner beyond 32 bits.
    #[error("owner {0} out of range")]
    Owner(u64),
    /// Extended attributes that don't fit beside the inode, or a malformed access list.
    #[error("extended attribute {0:?} cannot be stored")]
    Xattr(String),
    /// A whiteout of nothing, of a folder in itself, or of the one above it.
    #[error("a whiteout that names nothing")]
    Whiteout,
    /// Folders nested too deeply.
    #[error("folders nested more than {0} deep")]
    TooDeep(u32),
}
