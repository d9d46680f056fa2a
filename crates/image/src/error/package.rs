//! Why a package was refused.

use std::io;

use super::archive::ArchiveError;

/// Why a Debian package or an RPM was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackageError {
    /// No `!<arch>` at its start, or a broken member header.
    #[error("not a Debian package")]
    NotDeb,
    /// An RPM that is damaged, or of a kind that holds no files.
    #[error("not a usable RPM: {0}")]
    Rpm(&'static str),
    /// It ends early.
    #[error("the package is truncated")]
    Truncated,
    /// It has no `data.tar` member.
    #[error("no data.tar in it")]
    NoData,
    /// Its `data.tar`, or an RPM's payload, is not a sound archive.
    #[error("its content was refused")]
    Archive(#[source] ArchiveError),
    /// It could not be read.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
}
