//! Errors of copies.

use std::io;

use banger_api::{ApiError, ErrorKind, Remedy};
use banger_files::{UnpackError, Unpacked};
use banger_proto::{ExitStatus, OwnFailure};

/// Returns the error for an agent that exited with `status` and printed `why` last.
pub(super) fn said(vm: &str, status: ExitStatus, why: &str) -> ApiError {
    let own = match status {
        ExitStatus::Code(code) => OwnFailure::of(code),
        ExitStatus::Signal(_) => None,
    };
    let kind = match own {
        Some(OwnFailure::NotFound) => ErrorKind::NotFound,
        Some(OwnFailure::Busy) => ErrorKind::Busy,
        Some(OwnFailure::Exists) => ErrorKind::AlreadyExists,
        Some(OwnFailure::NoSpace) => ErrorKind::NoSpace,
        None => ErrorKind::Io,
    };
    ApiError::new(kind, format!("in VM {vm}: {why}"))
}

/// Returns the error for the host's end, which could not write.
pub(super) fn not_unpacked(error: UnpackError) -> ApiError {
    let kind = match &error {
        UnpackError::Stream(_) => ErrorKind::Guest,
        UnpackError::NoFolder(_) => ErrorKind::NotFound,
        UnpackError::Occupied(_) => ErrorKind::AlreadyExists,
        UnpackError::Busy(_) => ErrorKind::Busy,
        UnpackError::NotAFolder(_)
        | UnpackError::NeedsName(_)
        | UnpackError::NotReplaced { .. }
        | UnpackError::NotAFile(_) => ErrorKind::Invalid,
        UnpackError::Broken => ErrorKind::Io,
        UnpackError::Write { source, .. } => match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::NotPermitted,
            // The program that reads the output has closed it.
            io::ErrorKind::BrokenPipe => ErrorKind::Cancelled,
            _ => ErrorKind::Io,
        },
    };
    let told = ApiError::new(kind, error.to_string());
    match error {
        UnpackError::NoFolder(_) => told.remedy(Remedy::MakeDirectory),
        UnpackError::NotAFile(_) => told.remedy(Remedy::CopyToDirectory),
        _ => told,
    }
}

/// Adds to `error` what was copied before it.
pub(super) fn partly(mut error: ApiError, done: Unpacked) -> ApiError {
    error.message.push_str(&done.so_far());
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_copy_says_so() {
        let full =
            UnpackError::Write { path: "a/b".into(), source: io::Error::from(io::ErrorKind::StorageFull) };
        let error = partly(not_unpacked(full), Unpacked { files: 3, broken: 0 });
        assert_eq!(error.kind, ErrorKind::NoSpace);
        assert_eq!(error.message, "cannot write a/b: no storage space; 3 files were copied before");
        let error = partly(said("box", ExitStatus::Code(1), "cannot read /x"), Unpacked::default());
        assert_eq!(error, ApiError::new(ErrorKind::Io, "in VM box: cannot read /x"));
        assert_eq!(said("box", ExitStatus::Code(28), "full").kind, ErrorKind::NoSpace);
    }
}
