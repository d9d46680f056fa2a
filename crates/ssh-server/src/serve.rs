//! Serves a connection over a pair of streams.
//!
//! One task owns the protocol's state. Each channel's task has a [`Channel`] and sends [`Command`]s. The connection's
//! task accepts all data from ssh, because ssh never exceeds a channel's window, and it sends only what fits in ssh's
//! window. So no channel ever waits for another.

use std::collections::HashMap;

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{mpsc, oneshot},
};

use crate::{
    channel::{Channel, ChannelEnds, Command, Link},
    connection::{Connection, Event, Terms},
    error::Error,
    host_key::HostKey,
    requests::{GlobalRequest, Part, Refusal, Request, Target},
    transport::Transport,
};

/// Maximum number of queued commands; further senders wait.
const MAX_COMMANDS: usize = 32;

/// Limits on queued output, in bytes. From the first on, no commands are executed; from the second on, no input is
/// read, because ssh then sends requests without reading the replies.
const OUTPUT_SOFT_LIMIT: usize = 256 << 10;
const OUTPUT_HARD_LIMIT: usize = 4 << 20;

/// Decides how to answer ssh's requests. Nothing here may wait.
pub trait Handler {
    /// Records the user that ssh logs in as.
    fn authenticated(&mut self, user: String);

    /// Handles a request for a channel.
    fn open(&mut self, target: Target, channel: Channel) -> Decision;

    /// Handles a request about a channel that runs no program yet; returns false to refuse it.
    fn request(&mut self, channel: u32, request: Request) -> bool;

    /// Handles a global request. If ssh wants a reply, [`Link::answer_global`] must answer, in order.
    ///
    /// # Errors
    /// Returns an error to end the connection: too many requests have no answer yet.
    fn global(&mut self, request: GlobalRequest, wants_reply: bool) -> Result<(), TooManyRequests>;

    /// Handles the closing of a channel by ssh.
    fn closed(&mut self, channel: u32);
}

/// The answer to a request for a channel.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// Accepts it.
    Accept,
    /// Refuses it.
    Refuse(Refusal),
    /// [`Channel::accept`] or [`Channel::refuse`] answers later.
    Later,
}

/// Error for more unanswered global requests than the handler accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyRequests;

/// Serves a connection over `reader` and `writer` until ssh ends it.
///
/// # Errors
/// Returns an error if ssh does not follow the protocol, or the streams fail.
pub async fn serve<H: Handler>(
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
    key: HostKey,
    make_handler: impl FnOnce(Link) -> H,
) -> Result<(), Error> {
    let mut transport = Transport::new(key)?;
    let (commands, mut queue) = mpsc::channel(MAX_COMMANDS);
    let link = Link::new(commands);
    let mut server = Server::new(make_handler(link.clone()), link);
    loop {
        while let Some(message) = transport.next()? {
            if !server.receive(message)? {
                transport.unimplemented()?;
            }
            server.flush(&mut transport)?;
        }
        server.flush(&mut transport)?;
        let may_execute = !transport.is_exchanging();
        let (incoming, outgoing): (&mut BytesMut, &mut BytesMut) = transport.buffers();
        let queued = outgoing.len();
        tokio::select! {
            read = reader.read_buf(incoming), if queued < OUTPUT_HARD_LIMIT => {
                if read? == 0 {
                    return Ok(());
                }
            }
            written = writer.write(outgoing), if queued > 0 => outgoing.advance(written?),
            Some(command) = queue.recv(), if may_execute && queued < OUTPUT_SOFT_LIMIT => server.execute(command),
        }
    }
}

/// A connection with its channels' tasks.
#[derive(Debug)]
struct Server<H> {
    connection: Connection,
    handler: H,
    link: Link,
    channels: HashMap<u32, ChannelEnds>,
    /// Channels that were requested from ssh.
    requested: HashMap<u32, oneshot::Sender<Option<Channel>>>,
}

impl<H: Handler> Server<H> {
    fn new(handler: H, link: Link) -> Self {
        let (channels, requested) = (HashMap::new(), HashMap::new());
        Self { connection: Connection::default(), handler, link, channels, requested }
    }

    /// Passes the messages that wait to the transport, unless keys are being exchanged.
    fn flush(&mut self, transport: &mut Transport) -> Result<(), Error> {
        while !transport.is_exchanging() {
            let Some(message) = self.connection.next_outgoing() else { return Ok(()) };
            transport.send(&message)?;
        }
        Ok(())
    }

    /// Handles a message from ssh; returns false if it is unknown.
    fn receive(&mut self, message: Bytes) -> Result<bool, Error> {
        match self.connection.receive(message)? {
            None => {}
            Some(Event::Unknown) => return Ok(false),
            Some(Event::Authenticated { user }) => self.handler.authenticated(user),
            Some(Event::Open { channel, target, terms }) => {
                let opened = self.add_channel(channel, terms);
                match self.handler.open(target, opened) {
                    Decision::Accept => self.connection.accept(channel),
                    Decision::Refuse(reason) => self.refuse(channel, &reason),
                    Decision::Later => {}
                }
            }
            Some(Event::Opened { channel, terms }) => {
                let opened = self.add_channel(channel, terms);
                let sender = self.requested.remove(&channel);
                if sender.is_none_or(|sender| sender.send(Some(opened)).is_err()) {
                    self.connection.close(channel);
                }
            }
            Some(Event::Refused { channel }) => {
                if let Some(opened) = self.requested.remove(&channel) {
                    // The requester may no longer be waiting.
                    let _ = opened.send(None);
                }
            }
            Some(Event::WindowWidened { channel, bytes }) => {
                if let Some(ends) = self.channels.get(&channel) {
                    ends.window.add_permits(bytes as usize);
                }
            }
            Some(Event::Data { channel, bytes }) => {
                let count = bytes.len();
                if !self.send_part(channel, Part::Data(bytes)) {
                    // The task no longer wants the data; ssh must not wait for it.
                    self.connection.consumed(channel, count);
                }
            }
            Some(Event::End { channel }) => _ = self.send_part(channel, Part::End),
            Some(Event::Request { channel, request, wants_reply }) => {
                let success = self.handler.request(channel, request);
                if wants_reply {
                    self.connection.answer(channel, success);
                }
            }
            Some(Event::Control { channel, control, wants_reply }) => {
                let ends = self.channels.get(&channel);
                // Its task may have ended.
                let success = ends.is_some_and(|ends| ends.controls.send(control).is_ok());
                if wants_reply {
                    self.connection.answer(channel, success);
                }
            }
            Some(Event::Global { request, wants_reply }) => {
                let result = self.handler.global(request, wants_reply);
                result.map_err(|TooManyRequests| Error::TooLong)?;
            }
            Some(Event::Closed { channel }) => {
                if let Some(ends) = self.channels.remove(&channel) {
                    ends.window.close();
                }
                self.handler.closed(channel);
            }
        }
        Ok(true)
    }

    fn add_channel(&mut self, channel: u32, terms: Terms) -> Channel {
        let (opened, ends) = Channel::new(channel, self.link.clone(), terms);
        self.channels.insert(channel, ends);
        opened
    }

    /// Passes data to the channel's task; returns false if it has ended.
    fn send_part(&self, channel: u32, part: Part) -> bool {
        self.channels.get(&channel).is_some_and(|ends| ends.parts.send(part).is_ok())
    }

    fn refuse(&mut self, channel: u32, reason: &Refusal) {
        self.channels.remove(&channel);
        self.connection.refuse(channel, reason);
    }

    /// Executes a task's command.
    fn execute(&mut self, command: Command) {
        match command {
            Command::Accept(channel) => self.connection.accept(channel),
            Command::Refuse(channel, reason) => self.refuse(channel, &reason),
            Command::Data(channel, stream, bytes) => self.connection.send_data(channel, stream, &bytes),
            Command::Consumed(channel, bytes) => self.connection.consumed(channel, bytes),
            Command::End(channel) => self.connection.end(channel),
            Command::Exit(channel, exit) => self.connection.exit(channel, exit),
            Command::Close(channel) => self.connection.close(channel),
            Command::Open(source, opened) => {
                let channel = self.connection.open(&source);
                self.requested.insert(channel, opened);
            }
            Command::AnswerGlobal(answer) => self.connection.answer_global(answer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        connection::{MAX_PACKET, WINDOW_SIZE},
        fields::Message,
        requests::Stream,
    };

    /// Message numbers (RFC 4250, 4.1).
    const USERAUTH_REQUEST: u8 = 50;
    const OPEN: u8 = 90;
    const CONFIRMATION: u8 = 91;
    const WINDOW_ADJUST: u8 = 93;
    const DATA: u8 = 94;
    const CLOSE: u8 = 97;

    /// Accepts every session and every request.
    #[derive(Default)]
    struct AcceptAll {
        channels: Vec<Channel>,
        closed: Vec<u32>,
    }

    impl Handler for AcceptAll {
        fn authenticated(&mut self, _: String) {}

        fn open(&mut self, target: Target, channel: Channel) -> Decision {
            if target != Target::Session {
                return Decision::Refuse(Refusal::UnknownTarget);
            }
            self.channels.push(channel);
            Decision::Accept
        }

        fn request(&mut self, _: u32, _: Request) -> bool {
            true
        }

        fn global(&mut self, _: GlobalRequest, _: bool) -> Result<(), TooManyRequests> {
            Ok(())
        }

        fn closed(&mut self, channel: u32) {
            self.closed.push(channel);
        }
    }

    /// Returns a server with an authenticated client, and the commands of its channels' tasks.
    fn server() -> (Server<AcceptAll>, mpsc::Receiver<Command>) {
        let (commands, queue) = mpsc::channel(MAX_COMMANDS);
        let mut server = Server::new(AcceptAll::default(), Link::new(commands));
        let login = Message::new(USERAUTH_REQUEST).bytes(b"root").bytes(b"ssh-connection").bytes(b"none");
        receive(&mut server, &login);
        sent(&mut server);
        (server, queue)
    }

    fn receive(server: &mut Server<AcceptAll>, message: &Message) {
        assert!(server.receive(Bytes::copy_from_slice(message.as_bytes())).unwrap());
    }

    fn sent(server: &mut Server<AcceptAll>) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| server.connection.next_outgoing())
            .map(|sent| sent.as_bytes().to_vec())
            .collect()
    }

    /// Opens channel 1, which ssh calls 7, with this window.
    fn open(server: &mut Server<AcceptAll>, window: u32) -> Channel {
        receive(server, &Message::new(OPEN).bytes(b"session").u32(7).u32(window).u32(1000));
        assert_eq!(sent(server)[0][0], CONFIRMATION);
        server.handler.channels.remove(0)
    }

    #[test]
    fn data_for_a_dropped_channel_still_widens_the_window() {
        let (mut server, _queue) = server();
        drop(open(&mut server, 0));
        for _ in 0..WINDOW_SIZE / MAX_PACKET * 3 {
            receive(&mut server, &Message::new(DATA).u32(1).bytes(&vec![0; MAX_PACKET as usize]));
        }
        assert_eq!(sent(&mut server).len(), 6);
    }

    #[tokio::test]
    async fn the_writer_sends_no_more_than_sshs_window() {
        let (mut server, mut queue) = server();
        let channel = open(&mut server, 10);
        let writing =
            tokio::spawn(async move { channel.writer.write(vec![0; 25].into(), Stream::Output).await });
        let mut received = 0;
        while received < 25 {
            let command = queue.recv().await.unwrap();
            assert!(matches!(command, Command::Data(1, Stream::Output, _)));
            server.execute(command);
            received += sent(&mut server).iter().map(|message| message.len() - 9).sum::<usize>();
            if received == 10 {
                assert!(queue.try_recv().is_err());
                receive(&mut server, &Message::new(WINDOW_ADJUST).u32(1).u32(15));
            }
        }
        assert_eq!(received, 25);
        writing.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn the_task_of_a_closed_channel_sees_its_end() {
        let (mut server, _queue) = server();
        let mut channel = open(&mut server, 10);
        receive(&mut server, &Message::new(DATA).u32(1).bytes(b"abc"));
        receive(&mut server, &Message::new(CLOSE).u32(1));
        assert_eq!(server.handler.closed, [1]);
        assert_eq!(channel.reader.next().await, Some(Part::Data("abc".into())));
        assert_eq!(channel.reader.next().await, None);
        assert!(channel.controls.recv().await.is_none());
        assert!(channel.writer.write(vec![0; 20].into(), Stream::Output).await.is_err());
    }
}
