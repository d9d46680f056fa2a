//! A channel as its task sees it.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::{
    connection::Terms,
    requests::{Control, Exit, GlobalAnswer, Part, Refusal, Source, Stream},
};

/// A command for the task that owns the connection, from other tasks.
#[derive(Debug)]
pub(crate) enum Command {
    Accept(u32),
    Refuse(u32, Refusal),
    /// Bytes that fit in ssh's window.
    Data(u32, Stream, Bytes),
    Consumed(u32, usize),
    End(u32),
    Exit(u32, Exit),
    Close(u32),
    /// Requests a channel from ssh; the sender receives `None` if ssh refuses.
    Open(Source, oneshot::Sender<Option<Channel>>),
    AnswerGlobal(GlobalAnswer),
}

/// Error for a channel or connection that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("ssh has closed the channel")]
pub struct Closed;

/// Sends commands to the task that owns the connection.
#[derive(Debug, Clone)]
pub struct Link(mpsc::Sender<Command>);

impl Link {
    pub(crate) fn new(commands: mpsc::Sender<Command>) -> Self {
        Self(commands)
    }

    async fn send(&self, command: Command) -> Result<(), Closed> {
        self.0.send(command).await.map_err(|_| Closed)
    }

    /// Requests a channel from ssh.
    ///
    /// # Errors
    /// Returns an error if ssh refuses it, or the connection has ended.
    pub async fn open(&self, source: Source) -> Result<Channel, Closed> {
        let (opened, channel) = oneshot::channel();
        self.send(Command::Open(source, opened)).await?;
        channel.await.ok().flatten().ok_or(Closed)
    }

    /// Answers the oldest global request.
    ///
    /// # Errors
    /// Returns an error if the connection has ended.
    pub async fn answer_global(&self, answer: GlobalAnswer) -> Result<(), Closed> {
        self.send(Command::AnswerGlobal(answer)).await
    }
}

/// A channel.
#[derive(Debug)]
pub struct Channel {
    /// Data from ssh.
    pub reader: Reader,
    /// Data to ssh.
    pub writer: Writer,
    /// Control messages from ssh; ends when ssh closes the channel.
    pub controls: mpsc::UnboundedReceiver<Control>,
}

/// Incoming data of a channel.
#[derive(Debug)]
pub struct Reader {
    number: u32,
    link: Link,
    parts: mpsc::UnboundedReceiver<Part>,
}

/// Outgoing data of a channel.
#[derive(Debug)]
pub struct Writer {
    number: u32,
    link: Link,
    window: Arc<Semaphore>,
    max_packet: u32,
}

/// The connection's ends of a channel.
#[derive(Debug)]
pub(crate) struct ChannelEnds {
    pub(crate) parts: mpsc::UnboundedSender<Part>,
    pub(crate) controls: mpsc::UnboundedSender<Control>,
    /// Bytes that the writer may send.
    pub(crate) window: Arc<Semaphore>,
}

impl Channel {
    pub(crate) fn new(number: u32, link: Link, terms: Terms) -> (Self, ChannelEnds) {
        let (part_sender, parts) = mpsc::unbounded_channel();
        let (control_sender, controls) = mpsc::unbounded_channel();
        let window = Arc::new(Semaphore::new(terms.window as usize));
        let ends = ChannelEnds { parts: part_sender, controls: control_sender, window: window.clone() };
        let reader = Reader { number, link: link.clone(), parts };
        let writer = Writer { number, link, window, max_packet: terms.max_packet };
        (Self { reader, writer, controls }, ends)
    }

    /// Returns the channel's number.
    pub fn number(&self) -> u32 {
        self.reader.number
    }

    /// Accepts the channel that ssh requested, if its handler has not answered.
    ///
    /// # Errors
    /// Returns an error if the connection has ended.
    pub async fn accept(&self) -> Result<(), Closed> {
        self.writer.link.send(Command::Accept(self.number())).await
    }

    /// Refuses the channel that ssh requested, if its handler has not answered.
    pub async fn refuse(self, reason: Refusal) {
        // The connection may have ended.
        let _ = self.writer.link.send(Command::Refuse(self.number(), reason)).await;
    }
}

impl Reader {
    /// Returns the next data; `None` once ssh has closed the channel.
    pub async fn next(&mut self) -> Option<Part> {
        self.parts.recv().await
    }

    /// Lets ssh send `bytes` more.
    ///
    /// # Errors
    /// Returns an error if the connection has ended.
    pub async fn consumed(&self, bytes: usize) -> Result<(), Closed> {
        self.link.send(Command::Consumed(self.number, bytes)).await
    }
}

impl Writer {
    /// Sends `bytes` as fast as ssh accepts them.
    ///
    /// # Errors
    /// Returns an error if ssh has closed the channel.
    pub async fn write(&self, mut bytes: Bytes, stream: Stream) -> Result<(), Closed> {
        while !bytes.is_empty() {
            let max = bytes.len().min(self.max_packet as usize);
            // As much as fits in the window; at least one byte, after waiting for it.
            let count = self.window.available_permits().clamp(1, max);
            let permits = self.window.acquire_many(u32::try_from(count).unwrap_or(1)).await;
            permits.map_err(|_| Closed)?.forget();
            let part = bytes.split_to(count);
            self.link.send(Command::Data(self.number, stream, part)).await?;
        }
        Ok(())
    }

    /// Sends the end of the data.
    ///
    /// # Errors
    /// Returns an error if the connection has ended.
    pub async fn end(&self) -> Result<(), Closed> {
        self.link.send(Command::End(self.number)).await
    }

    /// Reports how the channel's program ended.
    ///
    /// # Errors
    /// Returns an error if the connection has ended.
    pub async fn exit(&self, exit: Exit) -> Result<(), Closed> {
        self.link.send(Command::Exit(self.number, exit)).await
    }

    /// Closes the channel.
    pub async fn close(&self) {
        // The connection may have ended.
        let _ = self.link.send(Command::Close(self.number)).await;
    }
}
