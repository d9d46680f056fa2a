//! A file descriptor whose readability the async runtime watches: pidfds, inotify.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use tokio::io::{
    Interest,
    unix::{AsyncFd, AsyncFdReadyGuard},
};

/// An owned descriptor, watched for readability. It cannot be moved out or replaced.
#[derive(Debug)]
pub struct Watched(AsyncFd<OwnedFd>);

impl Watched {
    /// Watches `fd`.
    ///
    /// # Errors
    /// Returns an error if epoll refuses its kind, such as a regular file.
    ///
    /// # Panics
    /// Panics outside a tokio runtime.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: an `OwnedFd` is open and the same until it is dropped, and this type never lets it be replaced: it
        // hands out no `&mut OwnedFd`.
        let watched = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        Ok(Self(watched?))
    }

    /// Waits until the descriptor is readable. It stays so until the guard clears it.
    ///
    /// # Errors
    /// Returns an error if the runtime is shutting down.
    pub async fn readable(&self) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
        self.0.readable().await
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
