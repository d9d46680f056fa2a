//! A stream to the host or to a socket in the guest, of any kind.

use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};

/// A bidirectional byte stream.
pub trait Duplex: AsyncRead + AsyncWrite + std::fmt::Debug {}
impl<T: AsyncRead + AsyncWrite + std::fmt::Debug> Duplex for T {}

/// A stream socket of any kind.
pub(crate) type Socket = Pin<Box<dyn Duplex>>;
