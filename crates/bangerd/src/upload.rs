//! The body of a request, of unlimited length.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::{BodyDataStream, Bytes};
use futures_util::{Stream, StreamExt};

/// Time for a client that still sends to notice that its data is not wanted, and disconnect.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);

/// A body that is read to its end even if the rest is not needed. If the daemon closed the connection while the
/// client sends, it would break before the client reads the reason.
pub(crate) struct Upload(pub(crate) Option<BodyDataStream>);

impl Stream for Upload {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(body) = &mut self.0 else { return Poll::Ready(None) };
        let chunk = std::task::ready!(body.poll_next_unpin(cx));
        if !matches!(chunk, Some(Ok(_))) {
            self.0 = None;
        }
        Poll::Ready(chunk.map(|chunk| chunk.map_err(io::Error::other)))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(mut rest) = self.0.take() {
            let drain = async move { while let Some(Ok(_)) = rest.next().await {} };
            tokio::spawn(tokio::time::timeout(DRAIN_TIMEOUT, drain));
        }
    }
}
