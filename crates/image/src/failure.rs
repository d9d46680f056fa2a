//! Failures by what to do about them.

use std::error::Error;
use std::io;

use crate::ImageError;

/// What kind of failure an error is, for those who answer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailureKind {
    /// The input, or what was asked for, is not acceptable.
    Invalid,
    /// What was asked for is not there.
    NotFound,
    /// Whoever has it does not give it to this user.
    NotPermitted,
    /// Whoever has it cannot be reached, or is out of order.
    Unreachable,
    /// A disk is full.
    NoSpace,
    /// A program is not installed on this host.
    MissingProgram,
    /// The caller stopped it.
    Cancelled,
    /// Something took longer than it may.
    Timeout,
    /// The operating system, or a program on this host, failed.
    Io,
}

impl ImageError {
    /// What kind of failure this is.
    pub fn kind(&self) -> FailureKind {
        let mut source: Option<&(dyn Error + 'static)> = Some(self);
        while let Some(error) = source {
            match error.downcast_ref::<io::Error>().map(io::Error::kind) {
                Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                    return FailureKind::NoSpace;
                }
                Some(io::ErrorKind::TimedOut) => return FailureKind::Timeout,
                _ => source = error.source(),
            }
        }
        match self {
            ImageError::Cancelled => FailureKind::Cancelled,
            ImageError::NoSpace { .. } => FailureKind::NoSpace,
            ImageError::MissingProgram { .. } => FailureKind::MissingProgram,
            ImageError::ProgramTimeout { .. } => FailureKind::Timeout,
            ImageError::Registry { source, .. } | ImageError::Download { source, .. } => source.kind(),
            ImageError::Io { .. }
            | ImageError::Ext4 { .. }
            | ImageError::Program { .. }
            | ImageError::Apt { .. } => FailureKind::Io,
            _ => FailureKind::Invalid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ArchiveError;

    #[test]
    fn sources_decide() {
        let read = |kind: io::ErrorKind| ImageError::Archive(ArchiveError::Read(kind.into())).kind();
        assert_eq!(read(io::ErrorKind::StorageFull), FailureKind::NoSpace);
        assert_eq!(read(io::ErrorKind::TimedOut), FailureKind::Timeout);
        assert_eq!(read(io::ErrorKind::InvalidData), FailureKind::Invalid);
        assert_eq!(ImageError::Cancelled.kind(), FailureKind::Cancelled);
        let full = mkext4::Error::Io(io::ErrorKind::StorageFull.into());
        assert_eq!(ImageError::Ext4 { path: "x".into(), source: full }.kind(), FailureKind::NoSpace);
    }
}
