//! A connection: channels over one transport, each with its own window in each direction (RFC 4254, 5).
//!
//! One task owns the transport and the state of all channels. Each channel's task has a [`Channel`] and sends
//! [`Command`]s. The connection's task accepts all data from ssh, because ssh never exceeds a channel's window, and
//! it sends only what fits in ssh's window. So no channel ever waits for another.

use std::{collections::HashMap, io, sync::Arc};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{Semaphore, mpsc, oneshot},
};

use super::{
    channel::{Channel, Command, Control, Link, MAX_PACKET, Part, Refusal},
    wire::{Fields, Malformed, Message, Transport, WireError},
};

/// Receive window of a channel, in bytes.
const WINDOW_SIZE: u32 = 2 << 20;

/// Maximum number of queued commands; further senders wait.
const MAX_COMMANDS: usize = 32;

/// Limits on queued output, in bytes. From the first on, no commands are executed; from the second on, no input is
/// read, because ssh then sends requests without reading the replies.
const OUTPUT_SOFT_LIMIT: usize = 256 << 10;
const OUTPUT_HARD_LIMIT: usize = 4 << 20;

/// The service that ssh requests first, and the service that it requests after authentication.
const USERAUTH: &str = "ssh-userauth";
const CONNECTION: &str = "ssh-connection";

/// Message numbers.
pub(super) mod number {
    pub(in crate::ssh) const SERVICE_REQUEST: u8 = 5;
    pub(in crate::ssh) const SERVICE_ACCEPT: u8 = 6;
    pub(in crate::ssh) const USERAUTH_REQUEST: u8 = 50;
    pub(in crate::ssh) const USERAUTH_SUCCESS: u8 = 52;
    /// First of the messages that require authentication.
    pub(in crate::ssh) const FIRST_OF_CONNECTION: u8 = 80;
    pub(in crate::ssh) const GLOBAL_REQUEST: u8 = 80;
    pub(in crate::ssh) const REQUEST_SUCCESS: u8 = 81;
    pub(in crate::ssh) const REQUEST_FAILURE: u8 = 82;
    pub(in crate::ssh) const OPEN: u8 = 90;
    pub(in crate::ssh) const CONFIRMATION: u8 = 91;
    pub(in crate::ssh) const OPEN_FAILURE: u8 = 92;
    pub(in crate::ssh) const WINDOW_ADJUST: u8 = 93;
    pub(in crate::ssh) const DATA: u8 = 94;
    pub(in crate::ssh) const EXTENDED_DATA: u8 = 95;
    pub(in crate::ssh) const EOF: u8 = 96;
    pub(in crate::ssh) const CLOSE: u8 = 97;
    pub(in crate::ssh) const REQUEST: u8 = 98;
    pub(in crate::ssh) const SUCCESS: u8 = 99;
    pub(in crate::ssh) const FAILURE: u8 = 100;
}

/// Decides how to answer ssh's requests.
pub(super) trait Handler {
    /// Records the user that ssh logs in as.
    fn set_user(&mut self, user: String);

    /// Handles a request for a channel; `None` if a command answers it later.
    fn open(
        &mut self,
        kind: &str,
        channel: Channel,
        fields: &mut Fields,
    ) -> Result<Option<Result<(), Refusal>>, WireError>;

    /// Handles a request about a channel; returns false to refuse it.
    fn request(&mut self, channel: u32, kind: &str, fields: &mut Fields) -> Result<bool, WireError>;

    /// Handles a global request; a command answers it.
    fn global(&mut self, kind: &str, wants_reply: bool, fields: &mut Fields) -> Result<(), WireError>;

    /// Handles the closing of a channel by ssh.
    fn closed(&mut self, channel: u32);
}

/// Error that ends a connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// State of a channel.
#[derive(Debug)]
struct ChannelState {
    /// ssh's number for it.
    peer_channel: u32,
    /// Bytes that ssh may still send.
    receive_window: u32,
    /// Bytes consumed since the last window adjustment.
    consumed: u32,
    /// Bytes that may still be sent to ssh.
    window: Arc<Semaphore>,
    data: mpsc::UnboundedSender<Part>,
    controls: mpsc::UnboundedSender<Control>,
    /// Whether this side has closed it.
    closed: bool,
}

/// A connection's state.
#[derive(Debug)]
struct Connection<S> {
    transport: Transport,
    server: S,
    link: Link,
    is_authenticated: bool,
    last_number: u32,
    channels: HashMap<u32, ChannelState>,
    /// Channels that were requested from ssh.
    requested: HashMap<u32, oneshot::Sender<Option<Channel>>>,
    /// Channels that ssh has requested, with ssh's numbers for them.
    pending: HashMap<u32, u32>,
}

/// Serves a connection over `reader` and `writer` until ssh ends it.
pub(super) async fn serve<S: Handler>(
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
    transport: Transport,
    make_server: impl FnOnce(Link) -> S,
) -> Result<(), ConnectionError> {
    let (commands, mut queue) = mpsc::channel(MAX_COMMANDS);
    let link = Link::new(commands);
    let mut connection = Connection::new(transport, make_server(link.clone()), link);
    loop {
        while let Some(message) = connection.transport.next()? {
            connection.receive(message)?;
        }
        let may_execute = !connection.transport.is_exchanging();
        let (incoming, outgoing): (&mut BytesMut, &mut BytesMut) = connection.transport.buffers();
        let queued = outgoing.len();
        tokio::select! {
            read = reader.read_buf(incoming), if queued < OUTPUT_HARD_LIMIT => {
                if read? == 0 {
                    return Ok(());
                }
            }
            written = writer.write(outgoing), if queued > 0 => outgoing.advance(written?),
            Some(command) = queue.recv(), if may_execute && queued < OUTPUT_SOFT_LIMIT => {
                connection.execute(command)?;
            }
        }
    }
}

impl<S: Handler> Connection<S> {
    fn new(transport: Transport, server: S, link: Link) -> Self {
        Self {
            transport,
            server,
            link,
            is_authenticated: false,
            last_number: 0,
            channels: HashMap::new(),
            requested: HashMap::new(),
            pending: HashMap::new(),
        }
    }

    /// Handles a message from ssh.
    fn receive(&mut self, message: Bytes) -> Result<(), WireError> {
        let mut fields = Fields::new(message);
        match fields.byte()? {
            number::SERVICE_REQUEST => {
                let service = fields.text()?;
                if service != USERAUTH {
                    return Err(WireError::Unexpected(number::SERVICE_REQUEST));
                }
                self.send(&Message::new(number::SERVICE_ACCEPT).bytes(service.as_bytes()))
            }
            number::USERAUTH_REQUEST => self.authenticate(&mut fields),
            number if number >= number::FIRST_OF_CONNECTION && !self.is_authenticated => {
                Err(WireError::Unexpected(number))
            }
            number::GLOBAL_REQUEST => self.server.global(&fields.text()?, fields.boolean()?, &mut fields),
            number::OPEN => self.open(&mut fields),
            number::CONFIRMATION => self.open_confirmed(&mut fields),
            number::OPEN_FAILURE => {
                if let Some(opened) = self.requested.remove(&fields.u32()?) {
                    // The requester may no longer be waiting.
                    let _ = opened.send(None);
                }
                Ok(())
            }
            number::WINDOW_ADJUST => self.adjust_window(&mut fields),
            number::DATA => {
                let (channel, bytes) = (fields.u32()?, fields.bytes()?);
                self.data(channel, bytes)
            }
            number::EXTENDED_DATA => {
                // A client has no such stream; its bytes still count against the window.
                let (channel, _, bytes) = (fields.u32()?, fields.u32()?, fields.bytes()?);
                self.count_consumed(channel, u32::try_from(bytes.len()).unwrap_or(u32::MAX), true)
            }
            number::EOF => {
                if let Some(entry) = self.channels.get(&fields.u32()?) {
                    // Its task may have ended.
                    let _ = entry.data.send(Part::End);
                }
                Ok(())
            }
            number::CLOSE => self.closed(fields.u32()?),
            number::REQUEST => self.request(&mut fields),
            number::REQUEST_SUCCESS | number::REQUEST_FAILURE | number::SUCCESS | number::FAILURE => Ok(()),
            _ => self.transport.unimplemented(),
        }
    }

    fn send(&mut self, message: &Message) -> Result<(), WireError> {
        self.transport.send(message)
    }

    /// Accepts every user: the peer on this process's standard streams is already its user.
    fn authenticate(&mut self, fields: &mut Fields) -> Result<(), WireError> {
        let (user, service) = (fields.text()?, fields.text()?);
        if service != CONNECTION {
            return Err(WireError::Unexpected(number::USERAUTH_REQUEST));
        }
        if std::mem::replace(&mut self.is_authenticated, true) {
            return Ok(());
        }
        self.server.set_user(user);
        self.send(&Message::new(number::USERAUTH_SUCCESS))
    }

    /// Returns an unused channel number.
    fn next_number(&mut self) -> u32 {
        loop {
            self.last_number = self.last_number.wrapping_add(1);
            if !self.channels.contains_key(&self.last_number)
                && !self.requested.contains_key(&self.last_number)
            {
                return self.last_number;
            }
        }
    }

    /// Records a channel that ssh calls `peer_channel`; returns the [`Channel`] for its task.
    fn add_channel(&mut self, number: u32, peer_channel: u32, window: u32, packet: u32) -> Channel {
        let (data, parts) = mpsc::unbounded_channel();
        let (control_sender, controls) = mpsc::unbounded_channel();
        let window = Arc::new(Semaphore::new(window as usize));
        let entry = ChannelState {
            peer_channel,
            receive_window: WINDOW_SIZE,
            consumed: 0,
            window: window.clone(),
            data,
            controls: control_sender,
            closed: false,
        };
        self.channels.insert(number, entry);
        Channel::new(number, self.link.clone(), window, packet.min(MAX_PACKET), parts, controls)
    }

    fn open(&mut self, fields: &mut Fields) -> Result<(), WireError> {
        let (kind, peer_channel) = (fields.text()?, fields.u32()?);
        let (window, packet) = (fields.u32()?, fields.u32()?);
        let number = self.next_number();
        let channel = self.add_channel(number, peer_channel, window, packet);
        self.pending.insert(number, peer_channel);
        match self.server.open(&kind, channel, fields)? {
            Some(Ok(())) => self.execute(Command::Accept(number)),
            Some(Err(reason)) => self.execute(Command::Reject { channel: number, reason }),
            // Its task answers later.
            None => Ok(()),
        }
    }

    fn open_confirmed(&mut self, fields: &mut Fields) -> Result<(), WireError> {
        let (number, peer_channel) = (fields.u32()?, fields.u32()?);
        let (window, packet) = (fields.u32()?, fields.u32()?);
        let unexpected = WireError::Unexpected(number::CONFIRMATION);
        let opened = self.requested.remove(&number).ok_or(unexpected)?;
        let channel = self.add_channel(number, peer_channel, window, packet);
        if opened.send(Some(channel)).is_err() {
            return self.execute(Command::Close(number));
        }
        Ok(())
    }

    fn adjust_window(&mut self, fields: &mut Fields) -> Result<(), WireError> {
        let (channel, bytes) = (fields.u32()?, fields.u32()?);
        if let Some(entry) = self.channels.get(&channel) {
            if entry.window.available_permits() + bytes as usize > u32::MAX as usize {
                return Err(WireError::Malformed);
            }
            entry.window.add_permits(bytes as usize);
        }
        Ok(())
    }

    fn data(&mut self, channel: u32, bytes: Bytes) -> Result<(), WireError> {
        let Some(entry) = self.channels.get_mut(&channel) else { return Ok(()) };
        let count = u32::try_from(bytes.len()).map_err(|_| WireError::TooLong)?;
        entry.receive_window = entry.receive_window.checked_sub(count).ok_or(WireError::TooLong)?;
        if entry.data.send(Part::Data(bytes)).is_err() {
            // The task no longer wants the data; ssh must not wait for it.
            return self.count_consumed(channel, count, false);
        }
        Ok(())
    }

    /// Counts `bytes` as consumed, and widens ssh's window once that is worth a message.
    fn count_consumed(&mut self, channel: u32, bytes: u32, uncounted: bool) -> Result<(), WireError> {
        let Some(entry) = self.channels.get_mut(&channel) else { return Ok(()) };
        if uncounted {
            entry.receive_window = entry.receive_window.checked_sub(bytes).ok_or(WireError::TooLong)?;
        }
        entry.consumed = entry.consumed.saturating_add(bytes);
        if entry.consumed < WINDOW_SIZE / 2 || entry.closed {
            return Ok(());
        }
        let adjustment = std::mem::take(&mut entry.consumed);
        entry.receive_window = entry.receive_window.saturating_add(adjustment);
        let message = Message::new(number::WINDOW_ADJUST).u32(entry.peer_channel).u32(adjustment);
        self.send(&message)
    }

    fn closed(&mut self, channel: u32) -> Result<(), WireError> {
        self.server.closed(channel);
        let Some(entry) = self.channels.remove(&channel) else { return Ok(()) };
        entry.window.close();
        if entry.closed { Ok(()) } else { self.send(&Message::new(number::CLOSE).u32(entry.peer_channel)) }
    }

    fn request(&mut self, fields: &mut Fields) -> Result<(), WireError> {
        let (channel, kind, wants_reply) = (fields.u32()?, fields.text()?, fields.boolean()?);
        let Some(entry) = self.channels.get(&channel) else { return Ok(()) };
        let peer_channel = entry.peer_channel;
        let accepted = match control(&kind, fields)? {
            // Its task may have ended.
            Some(control) => entry.controls.send(control).is_ok(),
            None => self.server.request(channel, &kind, fields)?,
        };
        if !wants_reply {
            return Ok(());
        }
        let answer = if accepted { number::SUCCESS } else { number::FAILURE };
        self.send(&Message::new(answer).u32(peer_channel))
    }

    /// Executes a task's command; ignores commands for channels that ssh has closed.
    fn execute(&mut self, command: Command) -> Result<(), WireError> {
        let message = match command {
            Command::Consumed { channel, bytes } => return self.count_consumed(channel, bytes, false),
            Command::Answer(answer) => answer.unwrap_or_else(|| Message::new(number::REQUEST_FAILURE)),
            Command::Open { kind, fields, opened } => {
                let number = self.next_number();
                self.requested.insert(number, opened);
                let open = Message::new(number::OPEN).bytes(kind.as_bytes()).u32(number);
                open.u32(WINDOW_SIZE).u32(MAX_PACKET).raw(fields.as_bytes())
            }
            Command::Accept(channel) => {
                let Some(peer_channel) = self.pending.remove(&channel) else { return Ok(()) };
                Message::new(number::CONFIRMATION)
                    .u32(peer_channel)
                    .u32(channel)
                    .u32(WINDOW_SIZE)
                    .u32(MAX_PACKET)
            }
            Command::Reject { channel, reason } => {
                let Some(peer_channel) = self.pending.remove(&channel) else { return Ok(()) };
                self.channels.remove(&channel);
                let (code, why) = reason.code_and_reason();
                Message::new(number::OPEN_FAILURE)
                    .u32(peer_channel)
                    .u32(code)
                    .bytes(why.as_bytes())
                    .bytes(b"")
            }
            Command::Data { channel, extended, bytes } => {
                let Some(peer_channel) = self.open_peer_channel(channel) else { return Ok(()) };
                match extended {
                    None => Message::new(number::DATA).u32(peer_channel),
                    Some(kind) => Message::new(number::EXTENDED_DATA).u32(peer_channel).u32(kind),
                }
                .bytes(&bytes)
            }
            Command::Eof(channel) => {
                let Some(peer_channel) = self.open_peer_channel(channel) else { return Ok(()) };
                Message::new(number::EOF).u32(peer_channel)
            }
            Command::Request { channel, kind, fields } => {
                let Some(peer_channel) = self.open_peer_channel(channel) else { return Ok(()) };
                let request = Message::new(number::REQUEST).u32(peer_channel).bytes(kind.as_bytes());
                request.boolean(false).raw(fields.as_bytes())
            }
            Command::Close(channel) => {
                let Some(peer_channel) = self.open_peer_channel(channel) else { return Ok(()) };
                if let Some(entry) = self.channels.get_mut(&channel) {
                    entry.closed = true;
                }
                Message::new(number::CLOSE).u32(peer_channel)
            }
        };
        self.send(&message)
    }

    /// Returns ssh's number for a channel that neither side has closed.
    fn open_peer_channel(&self, channel: u32) -> Option<u32> {
        self.channels.get(&channel).filter(|entry| !entry.closed).map(|entry| entry.peer_channel)
    }
}

/// Returns the control message in a request, if it is one.
fn control(kind: &str, fields: &mut Fields) -> Result<Option<Control>, Malformed> {
    Ok(match kind {
        "window-change" => Some(Control::resize(fields.u32()?, fields.u32()?)),
        "eow@openssh.com" => Some(Control::OutputClosed),
        "signal" => super::signals::number(&fields.text()?).map(Control::Signal),
        _ => None,
    })
}

#[cfg(test)]
mod tests;
