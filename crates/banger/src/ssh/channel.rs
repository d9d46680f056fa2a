//! A channel as its task has it, and its bytes on their way to the guest.

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

/// Most bytes of a packet, which goes to the guest as a whole.
pub(super) const PACKET: u32 = 32 << 10;

/// How long a guest may take for what was sent before ssh closed the channel.
const LINGER: Duration = Duration::from_secs(30);

/// What ssh says of a channel beside its bytes. Whatever of those waits, it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Control {
    /// Its terminal has another size.
    Resize(TerminalSize),
    /// A signal by its Linux number.
    Signal(i32),
    /// Whoever reads what it writes has had enough.
    Unwanted,
}

impl Control {
    pub(super) fn resize(cols: u32, rows: u32) -> Self {
        let cells = |count: u32| u16::try_from(count.max(1)).unwrap_or(u16::MAX);
        Self::Resize(TerminalSize { rows: cells(rows), cols: cells(cols) })
    }
}

/// What comes by a channel.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    Data(Bytes),
    /// There will be no more.
    End,
}

/// What a channel's task does, or whoever opens one or answers ssh.
#[derive(Debug)]
pub(super) enum Command {
    /// Sends bytes, for which the channel's window has room; of standard error, with its number.
    Data {
        channel: u32,
        extended: Option<u32>,
        bytes: Bytes,
    },
    /// Lets ssh send so many bytes more.
    Took {
        channel: u32,
        bytes: u32,
    },
    Eof(u32),
    Close(u32),
    /// Tells ssh something: a request that wants no answer.
    Tell {
        channel: u32,
        what: &'static str,
        fields: Message,
    },
    /// Lets ssh have the channel that it asked for, or not.
    Accept(u32),
    Reject {
        channel: u32,
        reason: Refusal,
    },
    /// Asks ssh for a channel; nothing when it will not have it.
    Open {
        kind: &'static str,
        fields: Message,
        opened: oneshot::Sender<Option<Channel>>,
    },
    /// Answers the oldest of ssh's global requests.
    Answer(Option<Message>),
}

/// Why ssh does not get a channel (RFC 4254, 5.1).
#[derive(Debug)]
pub(super) enum Refusal {
    /// What it leads to cannot be reached.
    ConnectFailed(String),
    UnknownKind,
    TooMany,
}

impl Refusal {
    pub(super) fn parts(&self) -> (u32, &str) {
        match self {
            Self::ConnectFailed(why) => (2, why),
            Self::UnknownKind => (3, "there is no such kind of channel"),
            Self::TooMany => (4, "there are too many channels"),
        }
    }
}

/// The way to the task that has the connection.
#[derive(Debug, Clone)]
pub(super) struct Link(mpsc::Sender<Command>);

impl Link {
    pub(super) fn new(commands: mpsc::Sender<Command>) -> Self {
        Self(commands)
    }

    /// # Errors
    /// When the connection has ended.
    pub(super) async fn send(&self, command: Command) -> Result<(), ApiError> {
        self.0.send(command).await.map_err(|_| closed())
    }

    /// A channel that ssh is asked for.
    ///
    /// # Errors
    /// When it will not have it.
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
    /// Ends when ssh has closed the channel.
    pub(super) controls: mpsc::UnboundedReceiver<Control>,
}

/// What comes by it.
#[derive(Debug)]
pub(super) struct Reader {
    number: u32,
    link: Link,
    parts: mpsc::UnboundedReceiver<Part>,
}

/// What goes by it.
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

    /// Lets ssh send `count` bytes more.
    async fn took(&self, count: usize) -> Result<(), ApiError> {
        let bytes = u32::try_from(count).unwrap_or(u32::MAX);
        self.link.send(Command::Took { channel: self.number, bytes }).await
    }
}

impl Writer {
    /// Sends `bytes` as fast as ssh takes them; of another stream, with its number.
    ///
    /// # Errors
    /// When ssh has closed the channel.
    pub(super) async fn write(&self, mut bytes: Bytes, extended: Option<u32>) -> Result<(), ApiError> {
        while !bytes.is_empty() {
            let most = bytes.len().min(self.packet as usize).max(1);
            // As much as there is room for; at least for one byte, which is waited for.
            let count = self.window.available_permits().clamp(1, most);
            let room = self.window.acquire_many(u32::try_from(count).unwrap_or(1)).await;
            room.map_err(|_| closed())?.forget();
            let part = bytes.split_to(count);
            self.link.send(Command::Data { channel: self.number, extended, bytes: part }).await?;
        }
        Ok(())
    }

    /// Sends that there will be no more.
    ///
    /// # Errors
    /// When the connection has ended.
    pub(super) async fn end(&self) -> Result<(), ApiError> {
        self.link.send(Command::Eof(self.number)).await
    }

    /// Tells ssh something of the channel's program.
    ///
    /// # Errors
    /// When the connection has ended.
    pub(super) async fn tell(&self, what: &'static str, fields: Message) -> Result<(), ApiError> {
        self.link.send(Command::Tell { channel: self.number, what, fields }).await
    }

    /// Closes the channel.
    pub(super) async fn close(&self) {
        // The connection may have ended.
        let _ = self.link.send(Command::Close(self.number)).await;
    }
}

/// Gives the guest what comes by the channel, until ssh has closed that, or wants nothing more of it. What ssh had sent to
/// its end before still gets there.
pub(super) async fn feed(
    mut input: ExecInput,
    mut channel: Reader,
    mut taken: mpsc::UnboundedReceiver<usize>,
    mut controls: mpsc::UnboundedReceiver<Control>,
) -> Result<(), ApiError> {
    let (mut is_over, mut is_drained, mut late) = (false, false, None);
    while !(is_drained && (!is_over || input.all_is_taken())) {
        tokio::select! {
            Some(bytes) = taken.recv() => input.taken(bytes),
            control = controls.recv(), if late.is_none() => match control {
                Some(Control::Resize(size)) => input.resize(size).await?,
                Some(Control::Signal(signal)) => input.signal(signal).await?,
                // The program hears of it as of a line that breaks.
                Some(Control::Unwanted) => return Ok(()),
                None => late = Some(Instant::now() + LINGER),
            },
            part = channel.next(), if !is_drained && input.window() >= PACKET as usize => match part {
                Some(Part::Data(bytes)) => {
                    input.stdin(&bytes).await?;
                    channel.took(bytes.len()).await?;
                }
                Some(Part::End) => {
                    is_over = true;
                    input.end_stdin().await?;
                }
                None => is_drained = true,
            },
            () = sleep_until(late.unwrap_or_else(Instant::now)), if late.is_some() => return Ok(()),
        }
    }
    Ok(())
}

/// How a channel, or a forwarded port's connection, has ended, of whose two halves one has come to its end before the
/// other: `out` from the guest, `fed` to it. Nothing when that was for the host's side to say.
pub(crate) async fn ended<T>(
    out: impl Future<Output = Result<T, ApiError>>,
    fed: impl Future<Output = Result<(), ApiError>>,
) -> Result<Option<T>, ApiError> {
    let mut out = pin!(out);
    tokio::select! {
        ended = &mut out => ended.map(Some),
        fed = fed => match fed {
            Ok(()) => Ok(None),
            // A guest that takes no more has said why, or will.
            Err(error) if error.kind == ErrorKind::Guest => out.await.map(Some),
            Err(error) => Err(error),
        },
    }
}

/// ssh does not take what is for it any more.
fn closed() -> ApiError {
    ApiError::new(ErrorKind::Cancelled, "ssh has closed the channel")
}
