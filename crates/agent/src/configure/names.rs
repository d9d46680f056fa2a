//! Names of hosts and domains.

use banger_proto::FailureKind;

use crate::failure::Failure;

/// Checks a host name, because it is written to files that other programs parse.
pub(super) fn check_name(name: &str) -> Result<(), Failure> {
    if is_name(name) {
        return Ok(());
    }
    Err(Failure::new(FailureKind::Invalid, format!("{name:?} is not a host name")))
}

/// Returns whether `name` has the form of a host name or domain.
pub(super) fn is_name(name: &str) -> bool {
    let fits = !name.is_empty() && name.len() <= 253;
    fits && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
}
