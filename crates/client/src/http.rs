//! One HTTP request over one connection.

use std::{
    fs::File,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use banger_api::{ApiError, BUILD_HEADER, ErrorKind, MAX_RESPONSE, Remedy};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, client::conn::http1, header, upgrade::Upgraded,
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::ReaderStream;

use crate::{client::Client, fd_passing::FdPassingStream};

/// Number of bytes that are read from a file and sent at once.
const CHUNK_SIZE: usize = 256 << 10;

/// The body of a request.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A raw stream to a port of a guest.
#[derive(Debug)]
pub struct Tunnel(TokioIo<Upgraded>);

pub(crate) fn empty_body() -> Body {
    Full::default().map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn json_body<T: Serialize>(value: &T) -> Result<Body, ApiError> {
    let bytes =
        serde_json::to_vec(value).map_err(|error| ApiError::new(ErrorKind::Internal, error.to_string()))?;
    Ok(Full::from(bytes).map_err(|never| match never {}).boxed_unsync())
}

pub(crate) fn stream_body(reader: impl AsyncRead + Send + 'static) -> Body {
    use futures_util::TryStreamExt;
    let chunks = ReaderStream::with_capacity(reader, CHUNK_SIZE);
    StreamBody::new(chunks.map_ok(hyper::body::Frame::data)).boxed_unsync()
}

/// Percent-encodes `text` as a segment of a URL's path.
pub(crate) fn segment(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

impl Client {
    /// Sends a request, and starts the daemon if none runs. Error responses are returned as errors.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Body,
    ) -> Result<Response<Incoming>, ApiError> {
        self.send_with(None, method, path, body).await
    }

    /// Sends a request, with a file that the daemon reads or writes.
    pub(crate) async fn send_with(
        &self,
        file: Option<File>,
        method: Method,
        path: &str,
        body: Body,
    ) -> Result<Response<Incoming>, ApiError> {
        let stream = FdPassingStream { stream: self.daemon.connect_or_start().await?, file };
        let build = self.daemon.build()?.to_string();
        let response = self.send_over(stream, method, path, body, Some(build)).await?;
        if response.status().is_success() || response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        Err(read(response).await?)
    }

    /// Sends a request over `stream`. A daemon of another build than `build` rejects it.
    pub(crate) async fn send_over(
        &self,
        stream: FdPassingStream,
        method: Method,
        path: &str,
        body: Body,
        build: Option<String>,
    ) -> Result<Response<Incoming>, ApiError> {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(connection_error)?;
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "bangerd");
        if let Some(build) = build {
            request = request.header(BUILD_HEADER, build);
        }
        if path.ends_with("/tunnel") {
            request = request.header(header::CONNECTION, "upgrade").header(header::UPGRADE, "banger-tunnel");
        }
        let request =
            request.body(body).map_err(|error| ApiError::new(ErrorKind::Internal, error.to_string()))?;
        sender.send_request(request).await.map_err(connection_error)
    }
}

/// Parses the JSON of a response.
pub(crate) async fn read<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T, ApiError> {
    let bytes = read_bytes(response).await?;
    serde_json::from_slice(&bytes).map_err(|error| {
        ApiError::new(ErrorKind::Internal, format!("bangerd sent an invalid response: {error}"))
    })
}

/// Reads the bytes of a response.
pub(crate) async fn read_bytes(response: Response<Incoming>) -> Result<Bytes, ApiError> {
    match Limited::new(response.into_body(), MAX_RESPONSE).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => Err(ApiError::new(ErrorKind::Io, format!("the connection to bangerd broke: {error}"))),
    }
}

pub(crate) async fn upgraded(response: Response<Incoming>) -> Result<Tunnel, ApiError> {
    Ok(Tunnel(TokioIo::new(hyper::upgrade::on(response).await.map_err(connection_error)?)))
}

#[allow(clippy::needless_pass_by_value)] // for map_err
pub(crate) fn connection_error(error: hyper::Error) -> ApiError {
    let message = format!("the connection to bangerd broke (bangerd may have been stopped): {error}");
    ApiError::new(ErrorKind::Io, message).remedy(Remedy::ReadDaemonLog)
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_percent_encoded_as_one_segment() {
        assert_eq!(segment("box-1"), "box-1");
        assert_eq!(segment("../a b?"), "%2E%2E%2Fa%20b%3F");
        assert_eq!(segment("ä"), "%C3%A4");
    }
}
