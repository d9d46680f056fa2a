//! One checked member of a tar archive.

/// A member with its extensions applied. The path is as stored: it may be absolute or contain `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// UTF-8, without NUL, not empty.
    pub(crate) path: String,
    pub(crate) kind: MemberKind,
    /// Permission bits, at most 0o7777.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds since the epoch, within ext4's range.
    pub(crate) mtime: (i64, u32),
    /// Full names and values, in the archive's order.
    pub(crate) xattrs: Vec<(String, Vec<u8>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MemberKind {
    File {
        /// Logical size in bytes.
        size: u64,
        /// The stored bytes, ascending and disjoint; gaps read as zeros.
        extents: Vec<Extent>,
    },
    Directory,
    Symlink(String),
    HardLink(String),
    Char {
        major: u32,
        minor: u32,
    },
    Block {
        major: u32,
        minor: u32,
    },
    Fifo,
}

/// A run of a file's bytes in the archive. All values are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Offset in the file.
    pub(crate) at: u64,
    /// Offset in the archive.
    pub(crate) archive: u64,
    pub(crate) length: u64,
}
