//! Opens the sockets that a process inherits.

use std::{
    ffi::OsString,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
};

use crate::{ProcessSpec, SocketSide, VmmError};

impl ProcessSpec {
    /// Opens the process's sockets. Returns the complete arguments, and the descriptors to which they refer.
    ///
    /// # Errors
    /// Returns an error if a socket cannot be created, or nothing listens at its path.
    pub fn open_sockets(&self) -> Result<(Vec<OsString>, Vec<OwnedFd>), VmmError> {
        let mut args = self.args.clone();
        let mut descriptors = Vec::with_capacity(self.sockets.len());
        for socket in &self.sockets {
            let (path, opened) = match &socket.side {
                SocketSide::Listen(path) => (path, UnixListener::bind(path).map(OwnedFd::from)),
                SocketSide::Connect(path) => (path, UnixStream::connect(path).map(OwnedFd::from)),
            };
            let descriptor = opened.map_err(|source| VmmError::Socket { path: path.clone(), source })?;
            if let Some(argument) = args.get_mut(socket.argument) {
                argument.push(descriptor.as_raw_fd().to_string());
            }
            descriptors.push(descriptor);
        }
        Ok((args, descriptors))
    }
}
