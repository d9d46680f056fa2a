//! Descriptors that a process inherits by their numbers.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{FromRawFd, OwnedFd, RawFd},
    sync::{Mutex, PoisonError},
};

use rustix::io::{Errno, FdFlags, fcntl_getfd, fcntl_setfd};

/// Numbers of the descriptors that were taken already.
static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// Takes the descriptor with this number, which the process must have inherited. Programs that it starts do not inherit
/// it.
///
/// # Errors
/// Returns an error if there is no such descriptor, it is a standard stream, was opened by this process, or was taken
/// before.
pub fn take_inherited(number: RawFd) -> io::Result<OwnedFd> {
    let bad = || io::Error::from(Errno::BADF);
    if number <= 2 || !TAKEN.lock().unwrap_or_else(PoisonError::into_inner).insert(number) {
        return Err(bad());
    }
    // SAFETY: borrowed only to read its flags, which fails if there is no such descriptor.
    let borrowed = unsafe { rustix::fd::BorrowedFd::borrow_raw(number) };
    // Rust opens all of its own descriptors so that programs do not inherit them; an inherited one was not.
    if fcntl_getfd(borrowed)?.contains(FdFlags::CLOEXEC) {
        return Err(bad());
    }
    fcntl_setfd(borrowed, FdFlags::CLOEXEC)?;
    // SAFETY: it is open, this process did not open it, so nothing here owns it, and it is taken once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsRawFd, IntoRawFd};

    #[test]
    fn a_descriptor_is_taken_once_and_only_if_it_was_inherited() {
        let (own, peer) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(take_inherited(own.as_raw_fd()).is_err());
        let inherited = rustix::io::dup(&peer).unwrap().into_raw_fd();
        let taken = take_inherited(inherited).unwrap();
        assert_eq!(taken.as_raw_fd(), inherited);
        assert!(fcntl_getfd(&taken).unwrap().contains(FdFlags::CLOEXEC));
        assert!(take_inherited(inherited).is_err());
        for number in [-1, 0, 1, 2, 1 << 20] {
            assert!(take_inherited(number).is_err(), "{number}");
        }
    }
}
