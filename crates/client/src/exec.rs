//! Running programs in a guest: the host's side of the agent's protocol.
//!
//! The guest is hostile: the host accepts only frames of bounded size from it.

use banger_api::{ApiError, ErrorKind};
use banger_proto::{
    Decoder, Exec, ExecControl, ExitStatus, Frame, GENERATION_OF_SOCKETS, Greeting, MAX_GREETING, MAX_REPLY,
    Reply, Request, STDIN_WINDOW, Sftp, Stream, TerminalSize,
};
use bytes::{Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};

use crate::{
    Client, Tunnel,
    protocol::{answer_in_time, connection_error, protocol_error, request_error, too_old, unexpected_reply},
    window::Window,
};

/// The sending half of a connection to a program or a socket.
#[derive(Debug)]
pub struct ExecInput<S = WriteHalf<Tunnel>> {
    stream: S,
    bytes: BytesMut,
    window: Window,
}

/// The receiving half of a connection to a program.
#[derive(Debug)]
pub struct ExecOutput<S = ReadHalf<Tunnel>> {
    stream: S,
    decoder: Decoder,
    window: Window,
}

/// A message from a program.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Bytes of its standard output, or of its terminal.
    Stdout(Bytes),
    /// Bytes of its standard error.
    Stderr(Bytes),
    /// The program has read this many bytes of its standard input, which is counted in [`ExecInput::window`].
    Acknowledged(usize),
    /// It has exited; no more messages follow.
    Exited(ExitStatus),
}

/// A connection to a VM's agent, for one request.
#[derive(Debug)]
pub struct Agent {
    reference: String,
    greeting: Greeting,
    input: ExecInput,
    output: ExecOutput,
}

/// Connects to the agent of VM `reference`, which waits half a minute for a request.
///
/// # Errors
/// Returns an error if the VM cannot be reached.
pub async fn agent(client: &Client, reference: &str) -> Result<Agent, ApiError> {
    let (greeting, input, output) = dial(client, reference).await?;
    Ok(Agent { reference: reference.to_owned(), greeting, input, output })
}

/// Runs the program of `request` in VM `reference`.
///
/// # Errors
/// Returns an error if the VM cannot be reached or the program cannot be run.
pub async fn exec(
    client: &Client,
    reference: &str,
    request: Exec,
) -> Result<(ExecInput, ExecOutput), ApiError> {
    agent(client, reference).await?.exec(request).await
}

/// Sends `request` to the agent of VM `reference` and returns its streams.
pub(crate) async fn run(
    client: &Client,
    reference: &str,
    request: Request,
) -> Result<(ExecInput, ExecOutput), ApiError> {
    agent(client, reference).await?.run(request).await
}

impl Agent {
    /// Runs the program of `request`.
    ///
    /// # Errors
    /// Returns an error if it cannot be run, or the agent is too old for the request.
    pub async fn exec(self, request: Exec) -> Result<(ExecInput, ExecOutput), ApiError> {
        // An older agent would ignore the command line and run a shell.
        if request.command_line.is_some() && self.greeting.generation < GENERATION_OF_SOCKETS {
            return Err(too_old(&self.reference));
        }
        self.run(Request::Exec(request)).await
    }

    /// Serves SFTP over the streams of an exec.
    ///
    /// # Errors
    /// Returns an error if the agent is too old.
    pub async fn sftp(self, request: Sftp) -> Result<(ExecInput, ExecOutput), ApiError> {
        self.run(Request::Sftp(request)).await
    }

    async fn run(mut self, request: Request) -> Result<(ExecInput, ExecOutput), ApiError> {
        let reply = async {
            self.input.send_message(&request).await?;
            self.output.read_reply().await
        };
        match answer_in_time(&self.reference, reply).await? {
            Reply::Started { .. } => Ok((self.input, self.output)),
            other => Err(request_error(&self.reference, other)),
        }
    }
}

/// Connects to the agent of VM `reference`, which sends its greeting first.
pub(crate) async fn dial(
    client: &Client,
    reference: &str,
) -> Result<(Greeting, ExecInput, ExecOutput), ApiError> {
    let (read, write) = tokio::io::split(client.tunnel(reference).await?);
    let (input, mut output) = halves(read, write);
    let greeting = answer_in_time(reference, output.read_message(MAX_GREETING)).await?;
    Ok((greeting, input, output))
}

/// Returns the halves of a connection to the agent at the other end of two streams.
pub(crate) fn halves<R, W>(read: R, write: W) -> (ExecInput<W>, ExecOutput<R>) {
    let window = Window::new();
    let input = ExecInput { stream: write, bytes: BytesMut::new(), window: window.clone() };
    (input, ExecOutput { stream: read, decoder: Decoder::default(), window })
}

impl<S: AsyncWrite + Unpin> ExecInput<S> {
    /// Returns the number of bytes of standard input that may be sent now.
    pub fn window(&self) -> usize {
        self.window.free()
    }

    /// Waits until `bytes` of standard input may be sent. The other half must be read meanwhile.
    pub fn wait_for_window(&self, bytes: usize) -> impl Future<Output = ()> + use<S> {
        let window = self.window.clone();
        async move { window.wait_for(bytes).await }
    }

    /// Waits until the program has read all bytes that were sent. The other half must be read meanwhile.
    pub fn wait_until_read(&self) -> impl Future<Output = ()> + use<S> {
        self.wait_for_window(STDIN_WINDOW)
    }

    /// Returns whether the program has read all bytes that were sent.
    pub fn all_read(&self) -> bool {
        self.window() == STDIN_WINDOW
    }

    /// Sends standard input, at most [`window`](Self::window) bytes.
    ///
    /// # Errors
    /// Returns an error if the connection breaks.
    pub async fn stdin(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        self.window.take(bytes.len());
        self.send(&Frame::Data(Stream::Stdin, Bytes::copy_from_slice(bytes))).await
    }

    /// Ends standard input.
    ///
    /// # Errors
    /// Returns an error if the connection breaks.
    pub async fn end_stdin(&mut self) -> Result<(), ApiError> {
        self.send(&Frame::end(Stream::Stdin)).await
    }

    /// Resizes the program's terminal.
    ///
    /// # Errors
    /// Returns an error if the connection breaks.
    pub async fn resize(&mut self, size: TerminalSize) -> Result<(), ApiError> {
        self.send_message(&ExecControl::Resize(size)).await
    }

    /// Sends the program's process group a signal, by its Linux number.
    ///
    /// # Errors
    /// Returns an error if the connection breaks.
    pub async fn signal(&mut self, signal: i32) -> Result<(), ApiError> {
        self.send_message(&ExecControl::Signal { signal }).await
    }

    pub(crate) async fn send_message<T: Serialize>(&mut self, message: &T) -> Result<(), ApiError> {
        let frame =
            Frame::control(message).map_err(|error| ApiError::new(ErrorKind::Invalid, error.to_string()))?;
        self.send(&frame).await
    }

    async fn send(&mut self, frame: &Frame) -> Result<(), ApiError> {
        self.bytes.clear();
        frame.encode(&mut self.bytes);
        self.stream.write_all(&self.bytes).await.map_err(|error| connection_error(&error.to_string()))?;
        self.stream.flush().await.map_err(|error| connection_error(&error.to_string()))
    }
}

impl<S: AsyncRead + Unpin> ExecOutput<S> {
    /// Creates the receiving half for the agent at the other end of `stream`, to which nothing is sent.
    pub fn new(stream: S) -> Self {
        Self { stream, decoder: Decoder::default(), window: Window::new() }
    }

    /// Returns the next message. It is cancel safe: no data is lost if the future is dropped.
    ///
    /// # Errors
    /// Returns an error if the connection breaks, or the guest does not follow the protocol.
    pub async fn next(&mut self) -> Result<Output, ApiError> {
        loop {
            let frame = self.read_frame().await?;
            match frame {
                Frame::Data(_, bytes) if bytes.is_empty() => {}
                Frame::Data(Stream::Stdout, bytes) => return Ok(Output::Stdout(bytes)),
                Frame::Data(Stream::Stderr, bytes) => return Ok(Output::Stderr(bytes)),
                Frame::Data(Stream::Stdin, _) => return Err(protocol_error("it sent data for stdin")),
                Frame::Control(_) => match parse(&frame, MAX_REPLY)? {
                    Reply::Acknowledged { bytes } => {
                        return self.acknowledge(bytes).map(Output::Acknowledged);
                    }
                    Reply::Exited { status } => return Ok(Output::Exited(status)),
                    other => return Err(unexpected_reply(other)),
                },
            }
        }
    }

    /// Records that the guest has acknowledged `bytes`, and returns them.
    pub(crate) fn acknowledge(&self, bytes: u32) -> Result<usize, ApiError> {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.window.acknowledge(bytes)?;
        Ok(bytes)
    }

    pub(crate) async fn read_reply(&mut self) -> Result<Reply, ApiError> {
        self.read_message(MAX_REPLY).await
    }

    async fn read_message<T: DeserializeOwned>(&mut self, limit: usize) -> Result<T, ApiError> {
        parse(&self.read_frame().await?, limit)
    }

    pub(crate) async fn read_frame(&mut self) -> Result<Frame, ApiError> {
        loop {
            if let Some(frame) =
                self.decoder.next_frame().map_err(|error| protocol_error(&error.to_string()))?
            {
                return Ok(frame);
            }
            match self.stream.read_buf(self.decoder.buffer()).await {
                Ok(0) => return Err(connection_error("it was closed; the VM may have stopped")),
                Ok(_) => {}
                Err(error) => return Err(connection_error(&error.to_string())),
            }
        }
    }
}

pub(crate) fn parse<T: DeserializeOwned>(frame: &Frame, limit: usize) -> Result<T, ApiError> {
    frame.parse_within(limit).map_err(|error| protocol_error(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use banger_proto::Endpoint;

    use super::*;

    fn control(reply: &Reply) -> Frame {
        Frame::control(reply).unwrap()
    }

    /// Returns the messages of a program that was sent four bytes, after these frames and until the first error.
    async fn messages(frames: &[Frame]) -> (Vec<Output>, ApiError) {
        let mut bytes = BytesMut::new();
        frames.iter().for_each(|frame| frame.encode(&mut bytes));
        let (mut input, mut output) = halves(&bytes[..], tokio::io::sink());
        input.stdin(b"four").await.unwrap();
        let mut messages = Vec::new();
        loop {
            match output.next().await {
                Ok(message) => messages.push(message),
                Err(error) => return (messages, error),
            }
        }
    }

    #[tokio::test]
    async fn replies_that_do_not_belong_to_an_exec_are_errors() {
        let acknowledged = |bytes| control(&Reply::Acknowledged { bytes });
        let long = Reply::Listening { at: Endpoint::Unix { path: vec![255; MAX_REPLY / 4] } };
        for (frame, message) in [
            (acknowledged(5), "not sent"),
            (acknowledged(0), "not sent"),
            (acknowledged(u32::MAX), "not sent"),
            (control(&Reply::Started { pid: 1 }), "unexpected reply \"started\""),
            (control(&Reply::Connected), "unexpected reply \"connected\""),
            (control(&long), "over the limit"),
            (Frame::Data(Stream::Stdin, Bytes::from_static(b"a")), "data for stdin"),
            (Frame::Control(Bytes::from_static(b"{}")), "malformed message"),
        ] {
            let (messages, error) = messages(&[frame]).await;
            assert!(messages.is_empty() && error.kind == ErrorKind::Guest, "{messages:?} {error}");
            assert!(error.message.contains(message), "{error}");
        }
        let (messages, error) = messages(&[acknowledged(1), acknowledged(3), acknowledged(1)]).await;
        assert_eq!(messages, [Output::Acknowledged(1), Output::Acknowledged(3)]);
        assert!(error.message.contains("not sent"), "{error}");
    }

    #[tokio::test]
    async fn a_long_greeting_is_rejected() {
        let mut greeting = Greeting {
            generation: 5,
            version: "x".repeat(MAX_GREETING / 2),
            boot_id: String::new(),
            boot: Vec::new(),
            init: None,
        };
        for fits in [true, false] {
            let mut bytes = BytesMut::new();
            Frame::control(&greeting).unwrap().encode(&mut bytes);
            let read = ExecOutput::new(&bytes[..]).read_message::<Greeting>(MAX_GREETING).await;
            assert_eq!(read.is_ok(), fits, "{read:?}");
            greeting.boot_id = "x".repeat(MAX_GREETING / 2);
        }
    }
}
