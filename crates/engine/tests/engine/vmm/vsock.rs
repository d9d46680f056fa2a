//! A guest's end of the vsock: Firecracker's own, or that of a vsock device.
//!
//! The fake QEMU and the fake vsock device do not speak vhost-user, which needs a guest's memory. QEMU opens a
//! connection to the device's socket for each stream; it has inherited the first. Its first line is `CALL PORT`, which the device connects to the
//! host's port, or `ACCEPT`, which the device joins with the host's next connection.

use std::{
    io,
    os::unix::net::UnixStream as StdStream,
    path::{Path, PathBuf},
};

use tokio::{
    io::AsyncWriteExt,
    net::{UnixListener, UnixStream},
};

use super::line;

#[derive(Debug)]
pub(super) enum Vsock {
    /// A hybrid vsock in this process.
    Own { path: PathBuf, listener: UnixListener },
    /// The socket of a vsock device, and a connection to it that is not used yet.
    Device { path: PathBuf, first: Option<UnixStream> },
}

impl Vsock {
    /// Returns the vsock of a device from a connection to it.
    pub(super) fn device(first: StdStream) -> io::Result<Self> {
        let bound = first.peer_addr()?;
        // The device has renamed it.
        let path = bound.as_pathname().ok_or(io::ErrorKind::InvalidInput)?.with_extension("sock");
        first.set_nonblocking(true)?;
        Ok(Self::Device { path, first: Some(UnixStream::from_std(first)?) })
    }

    /// Connects to `port` of the host.
    pub(super) async fn call(&mut self, port: u32) -> io::Result<UnixStream> {
        match self {
            Self::Own { path, .. } => UnixStream::connect(host_socket(path, port)).await,
            Self::Device { path, first } => {
                let mut stream = match first.take() {
                    Some(stream) => stream,
                    None => UnixStream::connect(path).await?,
                };
                stream.write_all(format!("CALL {port}\n").as_bytes()).await?;
                Ok(stream)
            }
        }
    }

    /// Accepts a connection from the host to `port` of the guest.
    pub(super) async fn accept(&self, port: u32) -> io::Result<UnixStream> {
        loop {
            let mut stream = match self {
                Self::Own { listener, .. } => listener.accept().await?.0,
                Self::Device { path, .. } => {
                    let mut stream = UnixStream::connect(path).await?;
                    stream.write_all(b"ACCEPT\n").await?;
                    stream
                }
            };
            // No other port is open.
            if line(&mut stream).await.is_ok_and(|line| line == format!("CONNECT {port}"))
                && stream.write_all(b"OK 1073741824\n").await.is_ok()
            {
                return Ok(stream);
            }
        }
    }
}

/// Returns the socket of the host's `port` for the hybrid vsock at `path`.
pub(super) fn host_socket(path: &Path, port: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!("_{port}"));
    name.into()
}
