//! A file that comes with a request: the client opens it and sends the descriptor with the first byte (`SCM_RIGHTS`,
//! unix(7)). So a large file need not pass through the socket, and the daemon opens none of the user's files.

use std::{
    fs::File,
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::UnixStream,
};

/// The file that a connection received, until it is taken.
#[derive(Debug, Clone, Default)]
pub(crate) struct PassedFile(Arc<Mutex<Option<File>>>);

impl PassedFile {
    pub(crate) fn take(&self) -> Option<File> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, file: File) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
    }
}

/// A connection that keeps the last descriptor it received.
#[derive(Debug)]
pub(crate) struct FdReceivingStream {
    stream: UnixStream,
    passed: PassedFile,
}

impl FdReceivingStream {
    pub(crate) fn new(stream: UnixStream) -> (Self, PassedFile) {
        let passed = PassedFile::default();
        (Self { stream, passed: passed.clone() }, passed)
    }

    fn receive(&self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        // The kernel closes descriptors that do not fit into the space.
        let received =
            recvmsg(&self.stream, &mut [IoSliceMut::new(bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                descriptors.for_each(|descriptor| self.passed.put(File::from(descriptor)));
            }
        }
        Ok(received.bytes)
    }
}

impl AsyncRead for FdReceivingStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            let unfilled = buffer.initialize_unfilled();
            match self.stream.try_io(Interest::READABLE, || self.receive(unfilled)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => {
                    buffer.advance(received?);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for FdReceivingStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
