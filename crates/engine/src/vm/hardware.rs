//! Limits of a VM's hardware.

use banger_api::{ApiError, ErrorKind, HostPorts, Limits, NetworkKind, Size};

/// Rejects hardware outside the limits. `None` means not requested.
pub(super) fn check_hardware<const N: usize>(
    vcpu: Option<u32>,
    memory: Option<Size>,
    disks: [(&str, Option<Size>); N],
) -> Result<(), ApiError> {
    let invalid = |message: String| Err(ApiError::new(ErrorKind::Invalid, message));
    if let Some(vcpu) = vcpu
        && !(1..=Limits::MAX_VCPU).contains(&vcpu)
    {
        return invalid(format!("{vcpu} virtual CPUs requested; the limit is {}", Limits::MAX_VCPU));
    }
    let within = |what: &str, size: Option<Size>, min: Size, max: Size| match size {
        Some(size) if !(min..=max).contains(&size) => {
            invalid(format!("{what} of {size} requested; the range is {min} to {max}"))
        }
        _ => Ok(()),
    };
    within("memory", memory, Limits::MIN_MEMORY, Limits::MAX_MEMORY)?;
    for (what, size) in disks {
        within(what, size, Limits::MIN_DISK, Limits::MAX_DISK)?;
    }
    Ok(())
}

/// Rejects a request for ports of the host without a network to reach them by.
pub(super) fn check_network(
    kind: Option<NetworkKind>,
    allow_host: Option<&HostPorts>,
) -> Result<(), ApiError> {
    match (kind, allow_host) {
        (Some(NetworkKind::None), Some(ports)) if !ports.is_empty() => {
            let message = format!("a VM without a network reaches no port of the host: {ports} requested");
            Err(ApiError::new(ErrorKind::Invalid, message))
        }
        _ => Ok(()),
    }
}
