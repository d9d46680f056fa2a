//! Streams between host and guest.
//!
//! Firecracker and `banger-vsock-device` provide the same "hybrid" vsock: a Unix socket on the host. The host
//! connects to it and sends `CONNECT <port>\n`; the answer is `OK <host port>\n` once the guest has accepted. A
//! connection that the guest opens to port N of the host arrives at the socket `PATH_N` (Firecracker, docs/vsock.md).
//! With `/dev/vhost-vsock`, the kernel's own `AF_VSOCK` can be used instead.

use std::{
    io,
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{UnixListener, UnixStream},
    time::timeout,
};
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener, VsockStream};

use crate::VmmError;

/// Timeout for a guest to accept a connection. One without KVM needs a second or two, and longer on a busy host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// First vsock port of a guest that its users can bind; those below are root's, such as the agent's.
const FIRST_UNPRIVILEGED_PORT: u32 = 1024;

/// Maximum length of the answer to `CONNECT`, in bytes; `OK 4294967295\n` has 14.
const ANSWER_MAX: usize = 16;

/// Address of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestChannel {
    /// A hybrid vsock at this path.
    Hybrid(PathBuf),
    /// The host kernel's vsock.
    Vsock {
        /// The guest's context id.
        cid: u32,
    },
}

/// A stream to or from a guest.
#[derive(Debug)]
pub enum GuestStream {
    /// Through a hybrid vsock.
    Hybrid(UnixStream),
    /// Through the host kernel's vsock.
    Vsock(VsockStream),
}

/// A listener for streams from a guest.
#[derive(Debug)]
pub struct GuestListener {
    socket: ListenerKind,
}

#[derive(Debug)]
enum ListenerKind {
    Hybrid { listener: UnixListener, path: PathBuf },
    Vsock { listener: VsockListener, cid: u32 },
}

/// Opens a stream to `port` of a guest.
///
/// # Errors
/// Returns an error if the VMM is gone, or nothing in the guest listens on the port.
pub async fn connect(guest: &GuestChannel, port: u32) -> Result<GuestStream, VmmError> {
    let connecting = async {
        match guest {
            GuestChannel::Hybrid(path) => connect_hybrid(path, port).await.map(GuestStream::Hybrid),
            GuestChannel::Vsock { cid } => {
                VsockStream::connect(VsockAddr::new(*cid, port)).await.map(GuestStream::Vsock)
            }
        }
        .map_err(|source| VmmError::Guest { port, source })
    };
    let timed_out = |_| VmmError::Timeout { what: "the guest's vsock".to_owned(), limit: CONNECT_TIMEOUT };
    timeout(CONNECT_TIMEOUT, connecting).await.map_err(timed_out)?
}

async fn connect_hybrid(path: &Path, port: u32) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(path).await?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
    // Byte by byte: what follows the line belongs to the guest's stream.
    let mut answer = Vec::with_capacity(ANSWER_MAX);
    while answer.last() != Some(&b'\n') {
        if answer.len() == ANSWER_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the vsock device did not answer OK"));
        }
        match stream.read_u8().await {
            Ok(byte) => answer.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "nothing listens on the port"));
            }
            Err(error) => return Err(error),
        }
    }
    if answer.starts_with(b"OK ") { Ok(stream) } else { Err(io::ErrorKind::ConnectionRefused.into()) }
}

/// Listens for streams that a guest opens to `port` of the host.
///
/// # Errors
/// Returns an error if the socket cannot be created.
pub fn listen(guest: &GuestChannel, port: u32) -> Result<GuestListener, VmmError> {
    let socket = match guest {
        GuestChannel::Hybrid(path) => {
            let mut name = path.clone().into_os_string();
            name.push(format!("_{port}"));
            let path = PathBuf::from(name);
            let listener = UnixListener::bind(&path)
                .map_err(|source| VmmError::Socket { path: path.clone(), source })?;
            ListenerKind::Hybrid { listener, path }
        }
        GuestChannel::Vsock { cid } => {
            let listener = VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, port));
            let listener = listener.map_err(|source| VmmError::Guest { port, source })?;
            ListenerKind::Vsock { listener, cid: *cid }
        }
    };
    Ok(GuestListener { socket })
}

impl GuestListener {
    /// Accepts the next stream. The host kernel's vsock and `banger-vsock-device` accept streams of the guest's root only;
    /// Firecracker does not report the guest's port.
    ///
    /// # Errors
    /// Returns an error if the socket fails.
    pub async fn accept(&mut self) -> Result<GuestStream, VmmError> {
        match &self.socket {
            ListenerKind::Hybrid { listener, path } => match listener.accept().await {
                Ok((stream, _)) => Ok(GuestStream::Hybrid(stream)),
                Err(source) => Err(VmmError::Socket { path: path.clone(), source }),
            },
            ListenerKind::Vsock { listener, cid } => loop {
                let (stream, from) =
                    listener.accept().await.map_err(|source| VmmError::Guest { port: 0, source })?;
                // Every guest on the host can reach this port, and every user of this guest.
                if from.cid() == *cid && from.port() < FIRST_UNPRIVILEGED_PORT {
                    return Ok(GuestStream::Vsock(stream));
                }
            },
        }
    }
}

impl Drop for GuestListener {
    fn drop(&mut self) {
        if let ListenerKind::Hybrid { path, .. } = &self.socket {
            // The directory is deleted with the VM; until then nothing must be able to connect.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl AsyncRead for GuestStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Hybrid(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Vsock(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for GuestStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Hybrid(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Vsock(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Hybrid(stream) => Pin::new(stream).poll_flush(cx),
            Self::Vsock(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Hybrid(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Vsock(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn connect_with_answer(answer: &'static [u8]) -> Result<Vec<u8>, VmmError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vsock");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut line = vec![0; 13];
            stream.read_exact(&mut line).await.unwrap();
            assert_eq!(line, b"CONNECT 1024\n");
            stream.write_all(answer).await.unwrap();
        });
        let mut stream = connect(&GuestChannel::Hybrid(path), 1024).await?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        Ok(rest)
    }

    #[tokio::test]
    async fn bytes_after_the_handshake_belong_to_the_guests_stream() {
        assert_eq!(connect_with_answer(b"OK 1073741824\nhello\n").await.unwrap(), b"hello\n");
    }

    #[tokio::test]
    async fn an_invalid_handshake_is_an_error() {
        for answer in [&b""[..], b"NO\n", b"OK", b"OK 1111111111111111111111111111\n"] {
            assert!(
                matches!(connect_with_answer(answer).await, Err(VmmError::Guest { port: 1024, .. })),
                "{answer:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_guests_connection_arrives_at_the_socket_of_its_port() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vsock");
        let mut listener = listen(&GuestChannel::Hybrid(path.clone()), 1025).unwrap();
        let socket_path = dir.path().join("vsock_1025");
        let (accepted, _guest) = tokio::join!(listener.accept(), UnixStream::connect(&socket_path));
        accepted.unwrap();
        drop(listener);
        assert!(!socket_path.exists());
    }
}
