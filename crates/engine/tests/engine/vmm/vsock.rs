//! A guest's end of the vsock: Firecracker's own, or that of a vsock device.
//!
//! The fake QEMU and the fake vsock device do not speak vhost-user, which needs a guest's memory. QEMU opens a
//! connection to the device's socket for each stream. Its first line is `CALL PORT`, which the device connects to the
//! host's port, or `ACCEPT`, which the device joins with the host's next connection.

use std::{
    io,
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
    /// The socket of a vsock device.
    Device(PathBuf),
}

impl Vsock {
    /// Connects to `port` of the host.
    pub(super) async fn call(&self, port: u32) -> io::Result<UnixStream> {
        match self {
            Self::Own { path, .. } => UnixStream::connect(host_socket(path, port)).await,
            Self::Device(device) => {
                let mut stream = UnixStream::connect(device).await?;
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
                Self::Device(device) => {
                    let mut stream = UnixStream::connect(device).await?;
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
