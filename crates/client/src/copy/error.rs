//! Errors of copies.

use std::io;

use banger_api::{ApiError, ErrorKind, GuestText, Remedy};
use banger_files::{UnpackError, Unpacked};
use banger_proto::{ExitStatus, SubcommandFailure};

/// Returns the error for an agent that exited with `status` and printed `why` last.
pub(super) fn agent_error(vm: &str, status: ExitStatus, why: &GuestText) -> ApiError {
    let failure = match status {
        ExitStatus::Code(code) => SubcommandFailure::of(code),
        ExitStatus::Signal(_) => None,
    };
    let kind = match failure {
        Some(SubcommandFailure::NotFound) => ErrorKind::NotFound,
        Some(SubcommandFailure::Busy) => ErrorKind::Busy,
        Some(SubcommandFailure::Exists) => ErrorKind::AlreadyExists,
        Some(SubcommandFailure::NoSpace) => ErrorKind::NoSpace,
        None => ErrorKind::Io,
    };
    let error = ApiError::from_guest(kind, why);
    ApiError { message: format!("in VM {vm}: {}", error.message), ..error }
}

/// Returns the error for the host's end, which could not write.
pub(super) fn unpack_error(error: UnpackError) -> ApiError {
    let kind = match &error {
        UnpackError::Stream(_) | UnpackError::OtherKind { .. } => ErrorKind::Guest,
        UnpackError::NoDirectory(_) => ErrorKind::NotFound,
        UnpackError::Occupied(_) => ErrorKind::AlreadyExists,
        UnpackError::Busy(_) => ErrorKind::Busy,
        UnpackError::NotADirectory(_)
        | UnpackError::NeedsName(_)
        | UnpackError::LinkToDirectory(_)
        | UnpackError::NotReplaced { .. }
        | UnpackError::NotAFile(_) => ErrorKind::Invalid,
        UnpackError::Reserved { .. } => ErrorKind::NoSpace,
        UnpackError::Broken => ErrorKind::Io,
        UnpackError::Write { source, .. } => match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::NotPermitted,
            // The program that reads the output has closed it.
            io::ErrorKind::BrokenPipe => ErrorKind::Cancelled,
            _ => ErrorKind::Io,
        },
    };
    let api_error = ApiError::new(kind, error.to_string());
    match error {
        UnpackError::NoDirectory(_) => api_error.remedy(Remedy::MakeDirectory),
        UnpackError::NotAFile(_) => api_error.remedy(Remedy::CopyToDirectory),
        UnpackError::LinkToDirectory(_) => api_error.remedy(Remedy::EndWithSlash),
        UnpackError::Reserved { .. } => api_error.remedy(Remedy::FreeTargetSpace),
        _ => api_error,
    }
}

/// Adds to `error` what was copied before it.
pub(super) fn with_progress(mut error: ApiError, done: Unpacked) -> ApiError {
    error.message.push_str(&done.so_far());
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_copy_reports_the_number_of_copied_files() {
        let full =
            UnpackError::Write { path: "a/b".into(), source: io::Error::from(io::ErrorKind::StorageFull) };
        let error = with_progress(unpack_error(full), Unpacked { files: 3, broken: 0 });
        assert_eq!(error.kind, ErrorKind::NoSpace);
        assert_eq!(error.message, "cannot write a/b: no storage space; 3 files were copied before");
        let failed = |code, why| agent_error("box", ExitStatus::Code(code), &GuestText::new(why));
        let error = with_progress(failed(1, "cannot read /x"), Unpacked::default());
        assert_eq!((error.kind, error.from_guest), (ErrorKind::Io, true));
        assert_eq!(error.message, "in VM box: the guest reports: cannot read /x");
        assert_eq!(failed(28, "full").kind, ErrorKind::NoSpace);
    }
}
