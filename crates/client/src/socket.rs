//! Sockets in a guest: the agent's protocol, from the host's side.

use std::{net::SocketAddr, time::Duration};

use banger_api::{ApiError, ErrorKind};
use banger_proto::{Connect, Endpoint, Frame, Listen, Reply, Request, Stream, Take};
use bytes::Bytes;
use tokio::time::timeout;

use crate::{
    Client,
    exec::{ExecInput, ExecOutput, dial, garbage, refused, unexpected},
};

/// How long a guest may take to connect or to listen: it may have to ask a name server, and each address that this tells of.
const ANSWER: Duration = Duration::from_secs(60);

/// What comes from a socket in a guest.
#[derive(Debug)]
pub struct SocketOutput(ExecOutput);

/// One thing that comes from a socket.
#[derive(Debug, PartialEq, Eq)]
pub enum SocketEvent {
    /// Bytes.
    Data(Bytes),
    /// There are no more bytes; it may still take some.
    End,
    /// So many bytes are taken; give them to [`ExecInput::taken`].
    Taken(usize),
    /// Both ways have ended.
    Closed,
}

/// Who calls at a socket that listens in a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Called {
    /// The number to [`take`] it by.
    pub caller: u64,
    /// Where it calls from, if that has an address.
    pub from: Option<SocketAddr>,
}

/// A socket that listens in a guest until this is dropped.
#[derive(Debug)]
pub struct GuestListener {
    at: Endpoint,
    output: ExecOutput,
    _open: ExecInput,
}

/// Connects to a socket in VM `reference`.
///
/// # Errors
/// When the VM cannot be reached, its agent is too old, or nothing listens there.
pub async fn connect(
    client: &Client,
    reference: &str,
    request: Connect,
) -> Result<(ExecInput, SocketOutput), ApiError> {
    connected(client, reference, Request::Connect(request)).await
}

/// Takes a caller of a listener in VM `reference`.
///
/// # Errors
/// When the VM cannot be reached, or the caller has gone.
pub async fn take(
    client: &Client,
    reference: &str,
    caller: u64,
) -> Result<(ExecInput, SocketOutput), ApiError> {
    connected(client, reference, Request::Take(Take { caller })).await
}

/// Listens on a socket in VM `reference`.
///
/// # Errors
/// When the VM cannot be reached, its agent is too old, or it cannot listen there.
pub async fn listen(client: &Client, reference: &str, request: Listen) -> Result<GuestListener, ApiError> {
    match asked(client, reference, Request::Listen(request)).await? {
        (input, output, Reply::Listening { at }) => Ok(GuestListener { at, output, _open: input }),
        (_, _, other) => Err(refused(reference, other)),
    }
}

async fn connected(
    client: &Client,
    reference: &str,
    request: Request,
) -> Result<(ExecInput, SocketOutput), ApiError> {
    match asked(client, reference, request).await? {
        (input, output, Reply::Connected) => Ok((input, SocketOutput(output))),
        (_, _, other) => Err(refused(reference, other)),
    }
}

async fn asked(
    client: &Client,
    reference: &str,
    request: Request,
) -> Result<(ExecInput, ExecOutput, Reply), ApiError> {
    let asked = async {
        let (_, mut input, mut output) = dial(client, reference).await?;
        input.say(&request).await?;
        let reply = output.message().await?;
        Ok((input, output, reply))
    };
    timeout(ANSWER, asked).await.unwrap_or_else(|_| {
        let message = format!("the agent of VM {reference} has not answered in {} s", ANSWER.as_secs());
        Err(ApiError::new(ErrorKind::Timeout, message))
    })
}

impl SocketOutput {
    /// The next thing that comes. Nothing is lost when it is not waited for to the end.
    ///
    /// # Errors
    /// When the connection breaks, or the guest does not follow the protocol.
    pub async fn next(&mut self) -> Result<SocketEvent, ApiError> {
        let frame = self.0.frame().await?;
        match frame {
            Frame::Data(Stream::Stdout, bytes) if bytes.is_empty() => Ok(SocketEvent::End),
            Frame::Data(Stream::Stdout, bytes) => Ok(SocketEvent::Data(bytes)),
            Frame::Data(..) => Err(garbage("a socket has one stream each way")),
            Frame::Control(_) => match frame.parse().map_err(|error| garbage(&error.to_string()))? {
                Reply::Taken { bytes } => Ok(SocketEvent::Taken(bytes as usize)),
                Reply::Closed => Ok(SocketEvent::Closed),
                other => Err(unexpected(other)),
            },
        }
    }
}

impl GuestListener {
    /// Where it listens, with the port or path that was chosen.
    pub fn at(&self) -> &Endpoint {
        &self.at
    }

    /// The next who calls. Nothing is lost when it is not waited for to the end.
    ///
    /// # Errors
    /// When the connection breaks, or the guest does not follow the protocol.
    pub async fn next(&mut self) -> Result<Called, ApiError> {
        match self.output.message().await? {
            Reply::Called { caller, from } => Ok(Called { caller, from }),
            other => Err(unexpected(other)),
        }
    }
}
