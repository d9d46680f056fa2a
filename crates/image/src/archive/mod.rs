//! Readers of archives: tar, the `ar` container of a Debian package, and RPMs with their cpio payload.
//!
//! They access no file system: they turn bytes into checked members.

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
pub(crate) use sparse::fill_holes;

/// Maximum length of a file name, in bytes: `NAME_MAX` of Linux and of ext4.
pub(crate) const NAME_MAX: usize = 255;

/// Maximum length of a path, in bytes: `PATH_MAX` of Linux.
pub(crate) const PATH_MAX: usize = 4096;

/// Maximum size of a file, in bytes: 2^32 - 1 blocks of 4096 bytes, ext4's limit.
pub(crate) const MAX_FILE: u64 = 0xffff_ffff * 4096;
