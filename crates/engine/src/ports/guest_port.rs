//! A connection to a port of a guest, for the reverse proxy.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::guest_socket::GuestSocket;
use crate::{error::EngineError, sessions::Session, store::Handle};

/// A connection to a port of a VM's guest.
#[derive(Debug)]
pub struct GuestPort {
    socket: GuestSocket,
    _session: Session,
}

impl GuestPort {
    pub(crate) async fn connect(handle: &Handle, port: u16, session: Session) -> Result<Self, EngineError> {
        Ok(Self { socket: GuestSocket::connect(&handle.into(), port).await?, _session: session })
    }
}

impl AsyncRead for GuestPort {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_read(cx, buffer)
    }
}

impl AsyncWrite for GuestPort {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}
