//! Sockets in a guest: the host's side of the agent's protocol.

use std::{net::SocketAddr, time::Duration};

use banger_api::{ApiError, ErrorKind};
use banger_proto::{Accept, Connect, Endpoint, Frame, Listen, Reply, Request, Stream};
use bytes::Bytes;
use tokio::time::timeout;

use crate::{
    Client,
    exec::{ExecInput, ExecOutput, dial, protocol_error, request_error, unexpected_reply},
};

/// Timeout for a guest to connect or listen: it may query a name server, and try each address that it returns.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

/// The receiving half of a connection to a socket in a guest.
#[derive(Debug)]
pub struct SocketOutput(ExecOutput);

/// A message from a socket.
#[derive(Debug, PartialEq, Eq)]
pub enum SocketEvent {
    /// Bytes from the socket.
    Data(Bytes),
    /// The socket sends no more bytes, but may still receive some.
    End,
    /// The socket has received this many bytes; pass them to [`ExecInput::acknowledge`].
    Acknowledged(usize),
    /// Both directions have ended.
    Closed,
}

/// A connection that waits at a listener in a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingConnection {
    /// The number by which [`accept`] accepts it.
    pub id: u64,
    /// The peer's address, if it has one.
    pub from: Option<SocketAddr>,
}

/// A socket that listens in a guest until this value is dropped.
#[derive(Debug)]
pub struct GuestListener {
    at: Endpoint,
    output: ExecOutput,
    _open: ExecInput,
}

/// Connects to a socket in VM `reference`.
///
/// # Errors
/// Returns an error if the VM cannot be reached, its agent is too old, or nothing listens at the address.
pub async fn connect(
    client: &Client,
    reference: &str,
    request: Connect,
) -> Result<(ExecInput, SocketOutput), ApiError> {
    open(client, reference, Request::Connect(request)).await
}

/// Accepts a connection that waits at a listener in VM `reference`.
///
/// # Errors
/// Returns an error if the VM cannot be reached, or the connection is gone.
pub async fn accept(
    client: &Client,
    reference: &str,
    id: u64,
) -> Result<(ExecInput, SocketOutput), ApiError> {
    open(client, reference, Request::Accept(Accept { id })).await
}

/// Listens on a socket in VM `reference`.
///
/// # Errors
/// Returns an error if the VM cannot be reached, its agent is too old, or it cannot listen at the address.
pub async fn listen(client: &Client, reference: &str, request: Listen) -> Result<GuestListener, ApiError> {
    match send_request(client, reference, Request::Listen(request)).await? {
        (input, output, Reply::Listening { at }) => Ok(GuestListener { at, output, _open: input }),
        (_, _, other) => Err(request_error(reference, other)),
    }
}

async fn open(
    client: &Client,
    reference: &str,
    request: Request,
) -> Result<(ExecInput, SocketOutput), ApiError> {
    match send_request(client, reference, request).await? {
        (input, output, Reply::Connected) => Ok((input, SocketOutput(output))),
        (_, _, other) => Err(request_error(reference, other)),
    }
}

async fn send_request(
    client: &Client,
    reference: &str,
    request: Request,
) -> Result<(ExecInput, ExecOutput, Reply), ApiError> {
    let response = async {
        let (_, mut input, mut output) = dial(client, reference).await?;
        input.send_message(&request).await?;
        let reply = output.read_message().await?;
        Ok((input, output, reply))
    };
    timeout(RESPONSE_TIMEOUT, response).await.unwrap_or_else(|_| {
        let message =
            format!("the agent of VM {reference} has not answered in {} s", RESPONSE_TIMEOUT.as_secs());
        Err(ApiError::new(ErrorKind::Timeout, message))
    })
}

impl SocketOutput {
    /// Returns the next message. It is cancel safe: no data is lost if the future is dropped.
    ///
    /// # Errors
    /// Returns an error if the connection breaks, or the guest does not follow the protocol.
    pub async fn next(&mut self) -> Result<SocketEvent, ApiError> {
        let frame = self.0.read_frame().await?;
        match frame {
            Frame::Data(Stream::Stdout, bytes) if bytes.is_empty() => Ok(SocketEvent::End),
            Frame::Data(Stream::Stdout, bytes) => Ok(SocketEvent::Data(bytes)),
            Frame::Data(..) => Err(protocol_error("it sent data on a stream that a socket does not have")),
            Frame::Control(_) => match frame.parse().map_err(|error| protocol_error(&error.to_string()))? {
                Reply::Acknowledged { bytes } => Ok(SocketEvent::Acknowledged(bytes as usize)),
                Reply::Closed => Ok(SocketEvent::Closed),
                other => Err(unexpected_reply(other)),
            },
        }
    }
}

impl GuestListener {
    /// Returns the address that it listens at, with the port or path that was chosen.
    pub fn at(&self) -> &Endpoint {
        &self.at
    }

    /// Waits for the next connection. It is cancel safe: no connection is lost if the future is dropped.
    ///
    /// # Errors
    /// Returns an error if the connection breaks, or the guest does not follow the protocol.
    pub async fn next(&mut self) -> Result<PendingConnection, ApiError> {
        match self.output.read_message().await? {
            Reply::Incoming { id, from } => Ok(PendingConnection { id, from }),
            other => Err(unexpected_reply(other)),
        }
    }
}
