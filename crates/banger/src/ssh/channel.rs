//! A channel as its task sees it, and the flow of its bytes to the guest.

use std::{pin::pin, sync::Arc, time::Duration};

use banger_api::{ApiError, ErrorKind};
use banger_client::ExecInput;
use banger_proto::TerminalSize;
use bytes::Bytes;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::{Instant, sleep_until},
};

use super::wire::Message;

/// Maximum size of a packet, in bytes; the guest receives each packet as a whole.
pub(super) const MAX_PACKET: u32 = 32 << 10;

/// Timeout for the guest to accept what ssh sent before it closed the channel.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// ssh's messages about a channel other than data. They do not wait behind data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Control {
    /// The terminal has a new size.
    Resize(TerminalSize),
    /// A signal by its Linux number.
    Signal(i32),
    /// The reader of the program's output has closed it.
    OutputClosed,
}

impl Control {
    pub(super) fn resize(cols: u32, rows: u32) -> Self {
        let cells = |count: u32| u16::try_from(count.max(1)).unwrap_or(u16::MAX);
        Self::Resize(TerminalSize { rows: cells(rows), cols: cells(cols) })
    }
}

/// Incoming data of a channel.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    Data(Bytes),
    /// End of the data.
    End,
}

/// A command for the connection's task, from other tasks.
#[derive(Debug)]
pub(super) enum Command {
    /// Sends bytes that fit in the channel's window; `extended` is the number of a stream such as standard error.
    Data {
        channel: u32,
        extended: Option<u32>,
        bytes: Bytes,
    },
    /// Lets ssh send this many more bytes.
    Consumed {
        channel: u32,
        bytes: u32,
    },
    Eof(u32),
    Close(u32),
    /// Sends ssh a request that wants no reply.
    Request {
        channel: u32,
        kind: &'static str,
        fields: Message,
    },
    /// Accepts the channel that ssh requested.
    Accept(u32),
    Reject {
        channel: u32,
        reason: Refusal,
    },
    /// Requests a channel from ssh; `opened` receives `None` if ssh refuses.
    Open {
        kind: &'static str,
        fields: Message,
        opened: oneshot::Sender<Option<Channel>>,
    },
    /// Answers the oldest of ssh's global requests.
    Answer(Option<Message>),
}

/// Reason for refusing ssh a channel (RFC 4254, 5.1).
#[derive(Debug)]
pub(super) enum Refusal {
    /// The target cannot be reached.
    ConnectFailed(String),
    UnknownKind,
    TooMany,
}

impl Refusal {
    pub(super) fn code_and_reason(&self) -> (u32, &str) {
        match self {
            Self::ConnectFailed(why) => (2, why),
            Self::UnknownKind => (3, "unknown channel type"),
            Self::TooMany => (4, "too many channels"),
        }
    }
}

/// Sends commands to the task that owns the connection.
#[derive(Debug, Clone)]
pub(super) struct Link(mpsc::Sender<Command>);

impl Link {
    pub(super) fn new(commands: mpsc::Sender<Command>) -> Self {
        Self(commands)
    }

    /// # Errors
    /// Returns an error if the connection has ended.
    pub(super) async fn send(&self, command: Command) -> Result<(), ApiError> {
        self.0.send(command).await.map_err(|_| closed())
    }

    /// Requests a channel from ssh.
    ///
    /// # Errors
    /// Returns an error if ssh refuses it.
    pub(super) async fn open(&self, kind: &'static str, fields: Message) -> Result<Channel, ApiError> {
        let (opened, channel) = oneshot::channel();
        self.send(Command::Open { kind, fields, opened }).await?;
        channel.await.ok().flatten().ok_or_else(closed)
    }
}

/// An open channel.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    /// Closed when ssh closes the channel.
    pub(super) controls: mpsc::UnboundedReceiver<Control>,
}

/// Incoming data of a channel.
#[derive(Debug)]
pub(super) struct Reader {
    number: u32,
    link: Link,
    parts: mpsc::UnboundedReceiver<Part>,
}

/// Outgoing data of a channel.
#[derive(Debug)]
pub(super) struct Writer {
    number: u32,
    link: Link,
    window: Arc<Semaphore>,
    packet: u32,
}

impl Channel {
    pub(super) fn new(
        number: u32,
        link: Link,
        window: Arc<Semaphore>,
        packet: u32,
        parts: mpsc::UnboundedReceiver<Part>,
        controls: mpsc::UnboundedReceiver<Control>,
    ) -> Self {
        let reader = Reader { number, link: link.clone(), parts };
        Self { reader, writer: Writer { number, link, window, packet }, controls }
    }

    pub(super) fn number(&self) -> u32 {
        self.reader.number
    }
}

impl Reader {
    async fn next(&mut self) -> Option<Part> {
        self.parts.recv().await
    }

    /// Lets ssh send `count` more bytes.
    async fn acknowledge(&self, count: usize) -> Result<(), ApiError> {
        let bytes = u32::try_from(count).unwrap_or(u32::MAX);
        self.link.send(Command::Consumed { channel: self.number, bytes }).await
    }
}

impl Writer {
    /// Sends `bytes` as fast as ssh accepts them; `extended` is the number of another stream.
    ///
    /// # Errors
    /// Returns an error if ssh has closed the channel.
    pub(super) async fn write(&self, mut bytes: Bytes, extended: Option<u32>) -> Result<(), ApiError> {
        while !bytes.is_empty() {
            let max = bytes.len().min(self.packet as usize).max(1);
            // As much as fits in the window; at least one byte, after waiting for it.
            let count = self.window.available_permits().clamp(1, max);
            let permits = self.window.acquire_many(u32::try_from(count).unwrap_or(1)).await;
            permits.map_err(|_| closed())?.forget();
            let part = bytes.split_to(count);
            self.link.send(Command::Data { channel: self.number, extended, bytes: part }).await?;
        }
        Ok(())
    }

    /// Sends the end of the data.
    ///
    /// # Errors
    /// Returns an error if the connection has ended.
    pub(super) async fn end(&self) -> Result<(), ApiError> {
        self.link.send(Command::Eof(self.number)).await
    }

    /// Sends ssh a request about the channel's program.
    ///
    /// # Errors
    /// Returns an error if the connection has ended.
    pub(super) async fn send_request(&self, kind: &'static str, fields: Message) -> Result<(), ApiError> {
        self.link.send(Command::Request { channel: self.number, kind, fields }).await
    }

    /// Closes the channel.
    pub(super) async fn close(&self) {
        // The connection may have ended.
        let _ = self.link.send(Command::Close(self.number)).await;
    }
}

/// Sends the channel's data to the guest until ssh closes the channel or wants no more output. Data that ssh sent
/// before it closed the channel still arrives.
pub(super) async fn forward_input(
    mut input: ExecInput,
    mut channel: Reader,
    mut controls: mpsc::UnboundedReceiver<Control>,
) -> Result<(), ApiError> {
    let (mut input_ended, mut is_drained, mut deadline) = (false, false, None);
    let max = MAX_PACKET as usize;
    while !(is_drained && (!input_ended || input.all_read())) {
        tokio::select! {
            () = input.wait_until_read(), if is_drained => {}
            () = input.wait_for_window(max), if !is_drained && input.window() < max => {}
            control = controls.recv(), if deadline.is_none() => match control {
                Some(Control::Resize(size)) => input.resize(size).await?,
                Some(Control::Signal(signal)) => input.signal(signal).await?,
                // To the program, this is a broken connection.
                Some(Control::OutputClosed) => return Ok(()),
                None => deadline = Some(Instant::now() + DRAIN_TIMEOUT),
            },
            part = channel.next(), if !is_drained && input.window() >= max => match part {
                Some(Part::Data(bytes)) => {
                    input.stdin(&bytes).await?;
                    channel.acknowledge(bytes.len()).await?;
                }
                Some(Part::End) => {
                    input_ended = true;
                    input.end_stdin().await?;
                }
                None => is_drained = true,
            },
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => return Ok(()),
        }
    }
    Ok(())
}

/// Returns how a channel or a forwarded connection ended, from its two halves: `output` from the guest and `input` to
/// it. Returns `None` if the host's side ended it.
pub(crate) async fn join_directions<T>(
    output: impl Future<Output = Result<T, ApiError>>,
    input: impl Future<Output = Result<(), ApiError>>,
) -> Result<Option<T>, ApiError> {
    let mut output = pin!(output);
    tokio::select! {
        result = &mut output => result.map(Some),
        result = input => match result {
            Ok(()) => Ok(None),
            // A guest that accepts no more input has sent the reason, or will.
            Err(error) if error.kind == ErrorKind::Guest => output.await.map(Some),
            Err(error) => Err(error),
        },
    }
}

/// Returns the error for a channel that ssh has closed.
fn closed() -> ApiError {
    ApiError::new(ErrorKind::Cancelled, "ssh has closed the channel")
}
