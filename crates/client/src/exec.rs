//! Running programs in a guest: the host's side of the agent's protocol.
//!
//! The guest is hostile: the host accepts only frames of bounded size from it.

use banger_api::{ApiError, ErrorKind, Remedy, SubjectKind};
use banger_proto::{
    AGENT_PORT, Decoder, Exec, ExecControl, ExitStatus, FailureKind, Frame, GENERATION_OF_SOCKETS, Greeting,
    Reply, Request, STDIN_WINDOW, Sftp, Stream, TerminalSize,
};
use bytes::{Bytes, BytesMut};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};

use crate::{Client, Tunnel};

/// The sending half of a connection to a program or a socket.
#[derive(Debug)]
pub struct ExecInput<S = WriteHalf<Tunnel>> {
    stream: S,
    bytes: BytesMut,
    window: usize,
}

/// The receiving half of a connection to a program.
#[derive(Debug)]
pub struct ExecOutput<S = ReadHalf<Tunnel>> {
    stream: S,
    decoder: Decoder,
}

/// A message from a program.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Bytes of its standard output, or of its terminal.
    Stdout(Bytes),
    /// Bytes of its standard error.
    Stderr(Bytes),
    /// The program has read this many bytes of its standard input; pass them to [`ExecInput::acknowledge`].
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
        self.input.send_message(&request).await?;
        match self.output.read_message().await? {
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
    let (read, write) = tokio::io::split(client.tunnel(reference, AGENT_PORT).await?);
    let mut output = ExecOutput::new(read);
    Ok((output.read_message().await?, ExecInput::new(write), output))
}

impl<S: AsyncWrite + Unpin> ExecInput<S> {
    /// Creates the sending half for the agent at the other end of `stream`.
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, bytes: BytesMut::new(), window: STDIN_WINDOW }
    }

    /// Returns the number of bytes of standard input that may be sent now.
    pub fn window(&self) -> usize {
        self.window
    }

    /// Returns whether the program has read all bytes that were sent.
    pub fn all_acknowledged(&self) -> bool {
        self.window == STDIN_WINDOW
    }

    /// Records that the program has read `bytes`.
    pub fn acknowledge(&mut self, bytes: usize) {
        self.window = (self.window + bytes).min(STDIN_WINDOW);
    }

    /// Sends standard input, at most [`window`](Self::window) bytes.
    ///
    /// # Errors
    /// Returns an error if the connection breaks.
    pub async fn stdin(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        self.window = self.window.saturating_sub(bytes.len());
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
    /// Creates the receiving half for the agent at the other end of `stream`.
    pub fn new(stream: S) -> Self {
        Self { stream, decoder: Decoder::default() }
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
                Frame::Control(_) => {
                    match frame.parse().map_err(|error| protocol_error(&error.to_string()))? {
                        Reply::Acknowledged { bytes } => return Ok(Output::Acknowledged(bytes as usize)),
                        Reply::Exited { status } => return Ok(Output::Exited(status)),
                        other => return Err(unexpected_reply(other)),
                    }
                }
            }
        }
    }

    pub(crate) async fn read_message<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, ApiError> {
        self.read_frame().await?.parse().map_err(|error| protocol_error(&error.to_string()))
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

fn connection_error(why: &str) -> ApiError {
    ApiError::new(ErrorKind::Guest, format!("the connection to the guest broke: {why}"))
}

pub(crate) fn protocol_error(why: &str) -> ApiError {
    ApiError::new(ErrorKind::Guest, format!("the guest does not follow the agent's protocol: {why}"))
}

/// Returns the error for an agent of VM `reference` that refused a request with `reply`.
pub(crate) fn request_error(reference: &str, reply: Reply) -> ApiError {
    match reply {
        Reply::Failed { kind: FailureKind::Unsupported, .. } => too_old(reference),
        other => unexpected_reply(other),
    }
}

fn too_old(reference: &str) -> ApiError {
    ApiError::new(
        ErrorKind::VersionSkew,
        format!("VM {reference} runs an older agent, which does not support this request"),
    )
    .about(SubjectKind::Vm, reference)
    .remedy(Remedy::UpdateAgent)
}

pub(crate) fn unexpected_reply(reply: Reply) -> ApiError {
    match reply {
        Reply::Failed { kind, message } => {
            let kind = match kind {
                FailureKind::NotFound => ErrorKind::NotFound,
                FailureKind::NotPermitted => ErrorKind::NotPermitted,
                FailureKind::Invalid | FailureKind::Unsupported => ErrorKind::Invalid,
                FailureKind::Internal => ErrorKind::Guest,
            };
            ApiError::new(kind, message)
        }
        other => protocol_error(&format!("unexpected reply {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_agent_is_reported_with_a_remedy() {
        let failed = |kind| request_error("box", Reply::Failed { kind, message: "no".to_owned() });
        let old = failed(FailureKind::Unsupported);
        assert_eq!(old.kind, ErrorKind::VersionSkew);
        assert!(old.message.contains("VM box runs an older agent"), "{old}");
        assert_eq!(old.remedy, Some(Remedy::UpdateAgent));
        assert_eq!(failed(FailureKind::NotFound), ApiError::new(ErrorKind::NotFound, "no"));
    }
}
