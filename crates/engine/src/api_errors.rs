//! Errors that VMs, images and kernels share.

use banger_api::{ApiError, ErrorKind, Remedy, SubjectKind};

use crate::store::VmRecord;

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
