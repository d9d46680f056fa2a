//! A connection to a port of the guest, as a stream of bytes over the agent's frames.
//!
//! One task must use both directions: each may wait for the other's progress. The guest is hostile: it can send only
//! what the protocol allows, and this side buffers at most [`MAX_BUFFERED`] bytes of it beyond what is read at once.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use banger_proto::{Connect, Endpoint, FrameHeader, HEADER_LEN, Reply, Request, STDIN_WINDOW, Stream};
use banger_vmm::{GuestChannel, GuestStream};
use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use crate::{
    error::EngineError,
    guest::{Agent, unexpected},
};

/// Bytes to read at a time, and maximum data in a frame to the guest, where a system call costs more than many bytes.
const CHUNK: usize = 256 << 10;

/// Maximum data from the guest that is buffered while its acknowledgements are read.
const MAX_BUFFERED: usize = 1 << 20;

/// Maximum length of a message during a connection, in bytes.
const MAX_MESSAGE: usize = 4 << 10;

/// Address of a guest's agent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AgentAddress {
    pub(crate) guest: GuestChannel,
    pub(crate) port: u32,
}

/// A connection to a port of the guest.
#[derive(Debug)]
pub(crate) struct GuestSocket<S = GuestStream> {
    stream: S,
    /// Frames from the guest that are not parsed yet.
    frames: BytesMut,
    /// Bytes of the current data frame that are not parsed yet.
    payload: usize,
    /// Data from the guest that is not read yet.
    data: BytesMut,
    /// Whether the guest sends no more data.
    ended: bool,
    /// Whether the guest accepts no more data.
    closed: bool,
    /// Frames to the guest that are not sent yet.
    unsent: BytesMut,
    /// Bytes that may be sent before the guest acknowledges earlier ones.
    window: usize,
    /// Whether the end of the data was sent.
    finished: bool,
}

impl GuestSocket {
    /// Connects to a TCP port of the guest's loopback.
    ///
    /// # Errors
    /// Returns an error if the guest cannot be reached, its agent is too old, or nothing listens on the port.
    pub(crate) async fn connect(agent: &AgentAddress, port: u16) -> Result<Self, EngineError> {
        let stream = banger_vmm::connect(&agent.guest, agent.port).await?;
        let to = Endpoint::Tcp { host: "localhost".to_owned(), port };
        match Agent::ask(stream, &Request::Connect(Connect { to, user: None })).await? {
            (agent, _, Reply::Connected) => Ok(Self::new(agent.into_parts())),
            (_, _, other) => Err(unexpected(&other)),
        }
    }
}

impl<S> GuestSocket<S> {
    /// Returns the socket of a connection that the agent has accepted, and of the bytes received after that.
    fn new((stream, frames): (S, BytesMut)) -> Self {
        Self {
            stream,
            frames,
            payload: 0,
            data: BytesMut::new(),
            ended: false,
            closed: false,
            unsent: BytesMut::new(),
            window: STDIN_WINDOW,
            finished: false,
        }
    }

    /// Parses received frames up to the next data. Returns false if there is none yet.
    fn parse(&mut self) -> io::Result<bool> {
        while !self.closed {
            if self.payload > 0 {
                let part = self.frames.split_to(self.payload.min(self.frames.len()));
                self.payload -= part.len();
                let parsed = !part.is_empty();
                if self.data.is_empty() {
                    self.data = part;
                } else {
                    self.data.unsplit(part);
                }
                return Ok(parsed);
            }
            let Some((header, _)) = self.frames.split_first_chunk::<HEADER_LEN>() else { return Ok(false) };
            let header = FrameHeader::decode(*header).map_err(protocol_error)?;
            match header {
                FrameHeader { stream: Some(Stream::Stdout), .. } if self.ended => {
                    return Err(protocol_error("it sent data after its end"));
                }
                FrameHeader { stream: Some(Stream::Stdout), length } => {
                    self.frames.advance(HEADER_LEN);
                    self.payload = length;
                    if length == 0 {
                        self.ended = true;
                        return Ok(true);
                    }
                }
                FrameHeader { stream: None, length } if length <= MAX_MESSAGE => {
                    let end = HEADER_LEN + length;
                    let Some(message) = self.frames.get(HEADER_LEN..end) else { return Ok(false) };
                    let reply = serde_json::from_slice(message).map_err(protocol_error)?;
                    self.frames.advance(end);
                    self.receive(&reply)?;
                }
                _ => return Err(protocol_error("it sent an unexpected frame")),
            }
        }
        Ok(false)
    }

    fn receive(&mut self, reply: &Reply) -> io::Result<()> {
        match reply {
            Reply::Acknowledged { bytes } => {
                let bytes = usize::try_from(*bytes).unwrap_or(usize::MAX);
                if bytes == 0 || bytes > STDIN_WINDOW - self.window {
                    return Err(protocol_error("it acknowledged data that was not sent"));
                }
                self.window += bytes;
            }
            Reply::Closed => (self.ended, self.closed) = (true, true),
            other => return Err(protocol_error(format!("unexpected reply {:?}", other.name()))),
        }
        Ok(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> GuestSocket<S> {
    /// Receives bytes of frames.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.frames.reserve(CHUNK);
        match ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.frames))? {
            0 => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Sends all frames that are waiting.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.unsent))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unsent.advance(count);
        }
        Poll::Ready(Ok(()))
    }

    /// Waits until data may be sent. Buffers data from the guest meanwhile, because its acknowledgements follow that.
    fn poll_window(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.window == 0 && !self.closed {
            if self.data.len() >= MAX_BUFFERED {
                // The reader continues in this task, and with it this direction.
                return Poll::Pending;
            }
            // Parsing may also have found an acknowledgement, after which no more bytes may come.
            if !self.parse()? && self.window == 0 && !self.closed {
                ready!(self.poll_receive(cx))?;
            }
        }
        let closed = self.closed || self.finished;
        Poll::Ready(if closed { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for GuestSocket<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.data.is_empty() {
                let count = this.data.len().min(buffer.remaining());
                buffer.put_slice(&this.data.split_to(count));
                return Poll::Ready(Ok(()));
            }
            if this.ended {
                return Poll::Ready(Ok(()));
            }
            if !this.parse()? && !this.ended {
                ready!(this.poll_receive(cx))?;
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for GuestSocket<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        ready!(this.poll_window(cx))?;
        let count = bytes.len().min(this.window).min(CHUNK);
        put_header(&mut this.unsent, count);
        this.unsent.put_slice(bytes.get(..count).unwrap_or_default());
        this.window -= count;
        match this.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // The next call sends the rest.
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(count)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    /// Ends the data to the guest, which may still send some.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.finished {
            put_header(&mut this.unsent, 0);
            this.finished = true;
        }
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }
}

fn put_header(frames: &mut BytesMut, length: usize) {
    frames.reserve(HEADER_LEN + length);
    frames.put_slice(&FrameHeader::of_data(Stream::Stdin, length));
}

fn protocol_error(problem: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem.to_string())
}

#[cfg(test)]
mod tests {
    use banger_proto::Frame;
    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    fn encode(frames: &[Frame]) -> BytesMut {
        let mut bytes = BytesMut::new();
        frames.iter().for_each(|frame| frame.encode(&mut bytes));
        bytes
    }

    fn data(bytes: &'static [u8]) -> Frame {
        Frame::Data(Stream::Stdout, Bytes::from_static(bytes))
    }

    fn control(reply: &Reply) -> Frame {
        Frame::control(reply).unwrap()
    }

    /// Returns a socket, and its guest's end.
    fn socket(first: &[Frame]) -> (GuestSocket<DuplexStream>, DuplexStream) {
        let (host, guest) = duplex(1 << 20);
        (GuestSocket::new((host, encode(first))), guest)
    }

    #[tokio::test]
    async fn data_passes_in_both_directions_and_each_can_end() {
        let (mut socket, mut guest) = socket(&[data(b"hel")]);
        guest.write_all(&encode(&[data(b"lo"), Frame::end(Stream::Stdout)])).await.unwrap();
        let mut received = String::new();
        socket.read_to_string(&mut received).await.unwrap();
        assert_eq!(received, "hello");
        socket.write_all(b"answer").await.unwrap();
        socket.shutdown().await.unwrap();
        let expected = [Frame::Data(Stream::Stdin, Bytes::from_static(b"answer")), Frame::end(Stream::Stdin)];
        let mut sent = vec![0; encode(&expected).len()];
        guest.read_exact(&mut sent).await.unwrap();
        assert_eq!(sent, encode(&expected));
    }

    #[tokio::test]
    async fn frames_may_arrive_byte_by_byte() {
        let (mut socket, mut guest) = socket(&[]);
        let bytes = encode(&[data(b"one"), data(b"two"), control(&Reply::Closed)]);
        let feed = async move {
            for byte in bytes {
                guest.write_all(&[byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
            guest
        };
        let mut received = String::new();
        let (read, _guest) = tokio::join!(socket.read_to_string(&mut received), feed);
        read.unwrap();
        assert_eq!(received, "onetwo");
        assert_eq!(socket.write_all(b"late").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    /// A client that sends without reading, to a guest that answers each byte before it acknowledges it.
    #[tokio::test]
    async fn acknowledgements_are_read_while_the_client_reads_no_data() {
        let (mut socket, mut guest) = socket(&[]);
        socket.write_all(&vec![0; STDIN_WINDOW - 1]).await.unwrap();
        let acknowledged = Reply::Acknowledged { bytes: 2 };
        guest.write_all(&encode(&[data(b"first"), data(b"last"), control(&acknowledged)])).await.unwrap();
        let receive = async {
            let mut rest = vec![0; STDIN_WINDOW];
            while guest.read(&mut rest).await.unwrap() > 0 {}
        };
        tokio::select! {
            sent = socket.write_all(&[1, 2, 3]) => sent.unwrap(),
            () = receive => panic!("the socket was closed"),
        }
        let mut received = [0; 9];
        socket.read_exact(&mut received).await.unwrap();
        assert_eq!(&received, b"firstlast");
    }

    #[tokio::test]
    async fn a_hostile_guest_gets_an_error() {
        let end = || Frame::end(Stream::Stdout);
        for (frames, problem) in [
            (vec![end(), data(b"a")], ""),
            (vec![data(b""), data(b"a")], ""),
            (vec![Frame::Data(Stream::Stderr, Bytes::from_static(b"a"))], "unexpected frame"),
            (vec![Frame::Data(Stream::Stdin, Bytes::new())], "unexpected frame"),
            (vec![control(&Reply::Acknowledged { bytes: 1 })], "not sent"),
            (vec![control(&Reply::Acknowledged { bytes: 0 })], "not sent"),
            (vec![control(&Reply::Pong)], "unexpected reply \"pong\""),
            (vec![Frame::Control(Bytes::from_static(b"{}"))], "missing field"),
            (vec![Frame::Control(Bytes::from(vec![b' '; MAX_MESSAGE + 1]))], "unexpected frame"),
            (vec![control(&Reply::Closed), end(), end()], ""),
        ] {
            let (mut socket, guest) = socket(&frames);
            drop(guest);
            let mut received = Vec::new();
            match socket.read_to_end(&mut received).await {
                Ok(_) => assert!(problem.is_empty() && received.is_empty(), "{frames:?}"),
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{frames:?}");
                    assert!(!problem.is_empty() && error.to_string().contains(problem), "{error}");
                }
            }
        }
        // A guest that disconnects in the middle.
        let (mut socket, guest) = socket(&[data(b"a")]);
        drop(guest);
        assert_eq!(socket.read_u16().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
