//! Errors of Debian packages and RPMs.

use std::io;

use super::archive::ArchiveError;

/// Reason for rejecting a Debian package or an RPM.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackageError {
    /// The file does not start with `!<arch>`, or a member header is invalid.
    #[error("not a Debian package")]
    NotDeb,
    /// The RPM is damaged, or of a kind without files.
    #[error("not a usable RPM: {0}")]
    Rpm(&'static str),
    /// The package is truncated.
    #[error("the package is truncated")]
    Truncated,
    /// The package has no `data.tar` member.
    #[error("it has no data.tar")]
    NoData,
    /// `data.tar`, or an RPM's payload, is not a valid archive.
    #[error("its content was refused")]
    Archive(#[source] ArchiveError),
    /// Reading the package failed.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
}
