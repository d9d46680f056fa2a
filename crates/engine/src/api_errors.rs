//! Errors that VMs, images and kernels share.

use banger_api::{ApiError, ErrorKind, RefError, Remedy, SubjectKind};

use crate::store::VmRecord;

pub(crate) fn not_found(kind: SubjectKind, reference: &str) -> ApiError {
    let message = format!("there is no {} {reference:?}", kind.as_str());
    ApiError::new(ErrorKind::NotFound, message).about(kind, reference)
}

/// Returns the error for a reference that matches nothing, or more than one.
pub(crate) fn unresolved(kind: SubjectKind, reference: &str, error: RefError) -> ApiError {
    match error {
        RefError::NotFound => not_found(kind, reference),
        RefError::Ambiguous(names) => {
            let message =
                format!("{reference:?} could be any of the {}s {}", kind.as_str(), names.join(", "));
            ApiError::new(ErrorKind::Ambiguous, message).about(kind, reference)
        }
    }
}

pub(crate) fn already_exists(kind: SubjectKind, name: &str) -> ApiError {
    ApiError::new(ErrorKind::AlreadyExists, format!("{} {name} already exists", kind.as_str()))
        .about(kind, name)
}

pub(crate) fn in_use(kind: SubjectKind, name: &str, users: Vec<String>) -> ApiError {
    ApiError::new(ErrorKind::Busy, format!("{} {name} is used by {}", kind.as_str(), users.join(", ")))
        .about(kind, name)
        .remedy(Remedy::DeleteVms { vms: users })
}

/// Returns the names of the VMs for which `uses` is true.
pub(crate) fn used_by(vms: &[VmRecord], uses: impl Fn(&VmRecord) -> bool) -> Vec<String> {
    vms.iter().filter(|vm| uses(vm)).map(|vm| vm.name.to_string()).collect()
}
