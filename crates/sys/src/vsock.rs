//! Vsock connections from a port of the caller's choice.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// Connects from port `from` of this machine to port `to` of the machine with context id `cid`, within the kernel's
/// timeout of two seconds. Only a process with `CAP_NET_BIND_SERVICE` can use a port below 1024.
///
/// # Errors
/// Returns an error if the port is in use or not permitted, or nothing listens at `to`.
pub fn connect_vsock(from: u32, cid: u32, to: u32) -> io::Result<OwnedFd> {
    // SAFETY: creates a descriptor; uses no memory.
    let raw = unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just created, and has no other owner.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    let (local, remote) = (address(libc::VMADDR_CID_ANY, from), address(cid, to));
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_vm>()).map_err(io::Error::other)?;
    // SAFETY: the pointer is to a local of the type and length that the kernel reads for this kind of socket.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const local).cast(), length) };
    if bound != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as for the bind.
    let connected = unsafe { libc::connect(socket.as_raw_fd(), (&raw const remote).cast(), length) };
    if connected != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

fn address(cid: u32, port: u32) -> libc::sockaddr_vm {
    // SAFETY: all of its fields are integers or arrays of them, for which zero is valid.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    // The constant is small.
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    (address.svm_cid, address.svm_port) = (cid, port);
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_of_a_missing_machine_is_an_error() {
        // No machine has this context id, and many kernels have no vsock at all.
        assert!(connect_vsock(2000, u32::MAX - 1, 1).is_err());
    }
}
