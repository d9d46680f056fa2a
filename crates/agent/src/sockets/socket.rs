//! A stream socket, whatever its kind.

use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes both ways.
pub(super) trait Duplex: AsyncRead + AsyncWrite + std::fmt::Debug {}
impl<T: AsyncRead + AsyncWrite + std::fmt::Debug> Duplex for T {}

/// A stream socket of either kind.
pub(super) type Socket = Pin<Box<dyn Duplex>>;
