//! Sockets in a guest: the host's side of the agent's protocol.

use std::net::SocketAddr;

use banger_api::ApiError;
use banger_proto::{Accept, Connect, Endpoint, Frame, Listen, MAX_REPLY, Reply, Request, Stream};
use bytes::Bytes;
use tokio::io::{AsyncRead, ReadHalf};

use crate::{
    Client, Tunnel,
    exec::{ExecInput, ExecOutput, dial, parse},
    protocol::{answer_in_time, protocol_error, request_error, unexpected_reply},
};

/// Maximum length of a Unix socket's path in Linux, in bytes.
const MAX_SOCKET_PATH: usize = 107;

/// The receiving half of a connection to a socket in a guest.
#[derive(Debug)]
pub struct SocketOutput<S = ReadHalf<Tunnel>> {
    output: ExecOutput<S>,
    /// Whether the guest has ended its data.
    ended: bool,
}

/// A message from a socket.
#[derive(Debug, PartialEq, Eq)]
pub enum SocketEvent {
    /// Bytes from the socket.
    Data(Bytes),
    /// The socket sends no more bytes, but may still receive some.
    End,
    /// The socket has received this many bytes, which is counted in [`ExecInput::window`].
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
    match send_request(client, reference, Request::Listen(request.clone())).await? {
        (input, output, Reply::Listening { at }) if is_answer(request.at.as_ref(), &at) => {
            Ok(GuestListener { at, output, _open: input })
        }
        (_, _, Reply::Listening { .. }) => {
            Err(protocol_error("it listens at another address than requested"))
        }
        (_, _, other) => Err(request_error(reference, other)),
    }
}

/// Returns whether a listener at `at` answers a request for one at `requested`.
fn is_answer(requested: Option<&Endpoint>, at: &Endpoint) -> bool {
    match (requested, at) {
        (Some(Endpoint::Tcp { host, port: 0 }), Endpoint::Tcp { host: answer, port }) => {
            answer == host && *port != 0
        }
        (Some(requested), at) => requested == at,
        (None, Endpoint::Unix { path }) => {
            path.starts_with(b"/") && path.len() <= MAX_SOCKET_PATH && !path.contains(&0)
        }
        (None, Endpoint::Tcp { .. }) => false,
    }
}

async fn open(
    client: &Client,
    reference: &str,
    request: Request,
) -> Result<(ExecInput, SocketOutput), ApiError> {
    match send_request(client, reference, request).await? {
        (input, output, Reply::Connected) => Ok((input, SocketOutput { output, ended: false })),
        (_, _, other) => Err(request_error(reference, other)),
    }
}

async fn send_request(
    client: &Client,
    reference: &str,
    request: Request,
) -> Result<(ExecInput, ExecOutput, Reply), ApiError> {
    let (_, mut input, mut output) = dial(client, reference).await?;
    let reply = answer_in_time(reference, async {
        input.send_message(&request).await?;
        output.read_reply().await
    });
    let reply = reply.await?;
    Ok((input, output, reply))
}

impl<S: AsyncRead + Unpin> SocketOutput<S> {
    /// Returns the next message. It is cancel safe: no data is lost if the future is dropped.
    ///
    /// # Errors
    /// Returns an error if the connection breaks, or the guest does not follow the protocol.
    pub async fn next(&mut self) -> Result<SocketEvent, ApiError> {
        let frame = self.output.read_frame().await?;
        match frame {
            Frame::Data(Stream::Stdout, _) if self.ended => Err(protocol_error("it sent data after its end")),
            Frame::Data(Stream::Stdout, bytes) if bytes.is_empty() => {
                self.ended = true;
                Ok(SocketEvent::End)
            }
            Frame::Data(Stream::Stdout, bytes) => Ok(SocketEvent::Data(bytes)),
            Frame::Data(..) => Err(protocol_error("it sent data on a stream that a socket does not have")),
            Frame::Control(_) => match parse(&frame, MAX_REPLY)? {
                Reply::Acknowledged { bytes } => {
                    self.output.acknowledge(bytes).map(SocketEvent::Acknowledged)
                }
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
        match self.output.read_reply().await? {
            Reply::Incoming { id, from } => Ok(PendingConnection { id, from }),
            other => Err(unexpected_reply(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use banger_api::ErrorKind;
    use bytes::BytesMut;

    use super::*;
    use crate::exec::halves;

    #[test]
    fn a_listener_answers_only_the_request_for_its_address() {
        let tcp = |host: &str, port| Endpoint::Tcp { host: host.into(), port };
        let unix = |path: &[u8]| Endpoint::Unix { path: path.into() };
        for (requested, at) in [
            (Some(tcp("localhost", 80)), tcp("localhost", 80)),
            (Some(tcp("", 0)), tcp("", 40_000)),
            (Some(unix(b"/a")), unix(b"/a")),
            (None, unix(b"/run/banger/x/agent")),
        ] {
            assert!(is_answer(requested.as_ref(), &at), "{requested:?} {at:?}");
        }
        for (requested, at) in [
            (Some(tcp("localhost", 80)), tcp("localhost", 81)),
            (Some(tcp("localhost", 80)), tcp("*", 80)),
            (Some(tcp("localhost", 0)), tcp("localhost", 0)),
            (Some(tcp("localhost", 0)), tcp("other", 1)),
            (Some(tcp("localhost", 80)), unix(b"/a")),
            (Some(unix(b"/a")), unix(b"/b")),
            (Some(unix(b"/a")), tcp("/a", 1)),
            (None, tcp("localhost", 80)),
            (None, unix(b"a")),
            (None, unix(b"")),
            (None, unix(b"/a\0")),
            (None, unix(&[b'/'; 108])),
        ] {
            assert!(!is_answer(requested.as_ref(), &at), "{requested:?} {at:?}");
        }
    }

    /// Returns the events of a socket after these frames, until the first error.
    async fn events(frames: &[Frame]) -> (Vec<SocketEvent>, ApiError) {
        let mut bytes = BytesMut::new();
        frames.iter().for_each(|frame| frame.encode(&mut bytes));
        let (mut input, output) = halves(&bytes[..], tokio::io::sink());
        input.stdin(b"four").await.unwrap();
        let mut output = SocketOutput { output, ended: false };
        let mut events = Vec::new();
        loop {
            match output.next().await {
                Ok(event) => events.push(event),
                Err(error) => return (events, error),
            }
        }
    }

    #[tokio::test]
    async fn a_socket_sends_nothing_after_its_end_and_acknowledges_only_what_it_got() {
        let data = || Frame::Data(Stream::Stdout, Bytes::from_static(b"a"));
        let acknowledged = |bytes| Frame::control(&Reply::Acknowledged { bytes }).unwrap();
        let valid = [data(), acknowledged(4), Frame::end(Stream::Stdout)];
        let (all, error) = events(&valid).await;
        let expected =
            [SocketEvent::Data(Bytes::from_static(b"a")), SocketEvent::Acknowledged(4), SocketEvent::End];
        assert_eq!((all.as_slice(), error.kind), (&expected[..], ErrorKind::Guest));
        let messages = [
            (data(), "after its end"),
            (Frame::end(Stream::Stdout), "after its end"),
            (acknowledged(1), "not sent"),
            (acknowledged(0), "not sent"),
            (Frame::control(&Reply::Connected).unwrap(), "unexpected reply"),
            (Frame::Data(Stream::Stderr, Bytes::new()), "does not have"),
        ];
        for (frame, message) in messages {
            let (all, error) = events(&[&valid[..], &[frame]].concat()).await;
            assert!(all.len() == 3 && error.message.contains(message), "{all:?} {error}");
        }
    }
}
