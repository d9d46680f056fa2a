//! A stream to the host or to a socket in the guest, whatever its kind.

use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite + std::fmt::Debug {}
impl<T: AsyncRead + AsyncWrite + std::fmt::Debug> Duplex for T {}

/// A stream socket of either kind.
pub(crate) type Socket = Pin<Box<dyn Duplex>>;
