//! Reading archives: tar members one after another, the `ar` that a Debian package is, and an RPM with its cpio.
//!
//! Nothing here touches a file system: bytes in, checked members out.

pub(crate) mod ar;
mod cpio;
mod member;
mod pax;
mod reader;
pub(crate) mod rpm;
mod sparse;
#[cfg(test)]
pub(crate) mod testing;

pub(crate) use crate::error::{ArchiveError, EntryProblem};
pub(crate) use cpio::CpioReader;
pub(crate) use member::{Extent, Member, MemberKind};
pub(crate) use reader::TarReader;
pub(crate) use sparse::filled;

/// Longest name of one file in bytes: `NAME_MAX` of Linux and of ext4.
pub(crate) const NAME_MAX: usize = 255;

/// Longest path in bytes: `PATH_MAX` of Linux.
pub(crate) const PATH_MAX: usize = 4096;

/// Largest file in bytes: 2^32 - 1 blocks of 4096 bytes, ext4's limit.
pub(crate) const MAX_FILE: u64 = 0xffff_ffff * 4096;
