//! Limits of a VM's hardware.

use banger_api::{ApiError, ErrorKind, Limits, Size};

/// Rejects hardware outside the limits. `None` means not requested.
pub(super) fn check_hardware<const N: usize>(
    vcpu: Option<u32>,
    memory: Option<Size>,
    disks: [(&str, Option<Size>); N],
) -> Result<(), ApiError> {
    let invalid = |message: String| Err(ApiError::new(ErrorKind::Invalid, message));
    if let Some(vcpu) = vcpu
        && !(1..=Limits::VCPU).contains(&vcpu)
    {
        return invalid(format!("{vcpu} virtual CPUs requested; the limit is {}", Limits::VCPU));
    }
    let within = |what: &str, size: Option<Size>, least: Size, most: Size| match size {
        Some(size) if !(least..=most).contains(&size) => {
            invalid(format!("{what} of {size} requested; the range is {least} to {most}"))
        }
        _ => Ok(()),
    };
    within("memory", memory, Limits::LEAST_MEMORY, Limits::MOST_MEMORY)?;
    for (what, size) in disks {
        within(what, size, Limits::LEAST_DISK, Limits::MOST_DISK)?;
    }
    Ok(())
}
