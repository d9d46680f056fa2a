//! Tap devices: network interfaces whose packets a program reads and writes.

use std::{fs::OpenOptions, io, os::fd::AsRawFd, path::Path};

/// The device that creates taps.
const TUN: &str = "/dev/net/tun";

/// Creates the tap `name` in this network namespace: it stays until it or its namespace is deleted, and a program of
/// this user can open it. Its packets have a header with offloads (`struct virtio_net_hdr`).
///
/// # Errors
/// Returns an error if `/dev/net/tun` cannot be opened, the name is invalid or in use, or the process lacks
/// `CAP_NET_ADMIN` in its namespace.
pub fn create_tap(name: &str) -> io::Result<()> {
    let device = OpenOptions::new().read(true).write(true).open(Path::new(TUN))?;
    // SAFETY: all of its fields are integers, arrays or unions of them, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte ends the name.
    if name.is_empty() || name.len() >= request.ifr_name.len() || name.contains('\0') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (target, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *target = byte.cast_signed();
    }
    // The constants fit in 16 bits.
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16;
    // SAFETY: the pointer is to a local of the type that the kernel reads and writes for this command.
    check(unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    let owner = libc::c_ulong::from(rustix::process::geteuid().as_raw());
    // SAFETY: the argument is a number.
    check(unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETOWNER, owner) })?;
    let persist: libc::c_ulong = 1;
    // SAFETY: the argument is a number.
    check(unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETPERSIST, persist) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_would_cut_are_invalid() {
        for name in ["", "a-name-of-16-byt", "a\0b"] {
            // Without the device or the capability, another error comes first.
            if let Err(error) = create_tap(name) {
                assert!(
                    matches!(
                        error.kind(),
                        io::ErrorKind::InvalidInput
                            | io::ErrorKind::PermissionDenied
                            | io::ErrorKind::NotFound
                    ),
                    "{error}"
                );
            } else {
                panic!("{name:?}");
            }
        }
    }
}
