//! Refusals that VMs, images and kernels share.

use banger_api::{ApiError, ErrorKind, RefError};

use crate::store::VmRecord;

pub(crate) fn no_such(what: &str, reference: &str) -> ApiError {
    let hint = match what {
        "VM" => "see `banger ps -a`".to_owned(),
        what => where_they_are(what),
    };
    ApiError::new(ErrorKind::NotFound, format!("there is no {what} {reference:?}")).hint(hint)
}

/// Where to look for an image or a kernel that is not called as was thought.
pub(crate) fn where_they_are(what: &str) -> String {
    format!("see `banger {what} list`, and `banger {what} list --available` for what the catalog has")
}

/// A reference that names nothing, or too much.
pub(crate) fn unresolved(what: &str, reference: &str, error: RefError) -> ApiError {
    match error {
        RefError::NotFound => no_such(what, reference),
        RefError::Ambiguous(names) => ApiError::new(
            ErrorKind::Ambiguous,
            format!("{reference:?} could be any of the {what}s {}", names.join(", ")),
        )
        .hint("write more of the name or id"),
    }
}

pub(crate) fn taken(what: &str, name: &str) -> ApiError {
    ApiError::new(ErrorKind::AlreadyExists, format!("{what} {name} exists already"))
        .hint(format!("choose another name, or delete it with: banger {what} delete {name}"))
}

pub(crate) fn in_use(what: &str, name: &str, users: &[String]) -> ApiError {
    ApiError::new(ErrorKind::Busy, format!("{what} {name} is used by {}", users.join(", ")))
        .hint("delete these VMs first")
}

/// The names of the VMs for which `uses` holds.
pub(crate) fn used_by(vms: &[VmRecord], uses: impl Fn(&VmRecord) -> bool) -> Vec<String> {
    vms.iter().filter(|vm| uses(vm)).map(|vm| vm.name.to_string()).collect()
}
