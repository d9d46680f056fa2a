//! A connection: channels over one transport, each with its own window in each direction (RFC 4254, 5).
//!
//! It does no I/O. Messages become [`Event`]s, and commands become messages, which wait in a queue until the transport
//! may send them. ssh's window for a channel is widened only by [`Connection::consumed`], so a channel whose data
//! is not read does not affect the others.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use crate::{
    error::Error,
    fields::{Fields, Message},
    requests::{Control, Exit, GlobalAnswer, GlobalRequest, Refusal, Request, Source, Stream, Target},
};

/// Receive window of a channel, in bytes.
pub(crate) const WINDOW_SIZE: u32 = 2 << 20;

/// Maximum size of a packet's data, in bytes.
pub const MAX_PACKET: u32 = 32 << 10;

/// The service that ssh requests first, and the service that it requests after authentication.
const USERAUTH: &str = "ssh-userauth";
const CONNECTION: &str = "ssh-connection";

/// Message numbers.
mod number {
    pub(super) const SERVICE_REQUEST: u8 = 5;
    pub(super) const SERVICE_ACCEPT: u8 = 6;
    pub(super) const USERAUTH_REQUEST: u8 = 50;
    pub(super) const USERAUTH_SUCCESS: u8 = 52;
    /// First of the messages that require authentication.
    pub(super) const FIRST_OF_CONNECTION: u8 = 80;
    pub(super) const GLOBAL_REQUEST: u8 = 80;
    pub(super) const REQUEST_SUCCESS: u8 = 81;
    pub(super) const REQUEST_FAILURE: u8 = 82;
    pub(super) const OPEN: u8 = 90;
    pub(super) const CONFIRMATION: u8 = 91;
    pub(super) const OPEN_FAILURE: u8 = 92;
    pub(super) const WINDOW_ADJUST: u8 = 93;
    pub(super) const DATA: u8 = 94;
    pub(super) const EXTENDED_DATA: u8 = 95;
    pub(super) const EOF: u8 = 96;
    pub(super) const CLOSE: u8 = 97;
    pub(super) const REQUEST: u8 = 98;
    pub(super) const SUCCESS: u8 = 99;
    pub(super) const FAILURE: u8 = 100;
}

/// Number of the extended stream for standard error.
const STDERR: u32 = 1;

/// ssh's terms for a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Bytes that the server may send before ssh widens the window.
    pub(crate) window: u32,
    /// Maximum size of a packet's data, at least 1.
    pub(crate) max_packet: u32,
}

/// Something that ssh has sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// ssh has named its user, who is accepted.
    Authenticated { user: String },
    /// ssh requests a channel: [`Connection::accept`] or [`Connection::refuse`] it.
    Open { channel: u32, target: Target, terms: Terms },
    /// ssh has accepted a channel that the server requested.
    Opened { channel: u32, terms: Terms },
    /// ssh has refused a channel that the server requested.
    Refused { channel: u32 },
    /// The server may send this many more bytes.
    WindowWidened { channel: u32, bytes: u32 },
    /// Data, to be reported with [`Connection::consumed`] when it has been used.
    Data { channel: u32, bytes: Bytes },
    /// No more data follows.
    End { channel: u32 },
    /// A request: [`Connection::answer`] it if it wants a reply.
    Request { channel: u32, request: Request, wants_reply: bool },
    /// A control message for a running program; it needs an answer too.
    Control { channel: u32, control: Control, wants_reply: bool },
    /// A request: [`Connection::answer_global`] it if it wants a reply, in order.
    Global { request: GlobalRequest, wants_reply: bool },
    /// ssh has closed the channel. No event about it follows.
    Closed { channel: u32 },
    /// A message that the server does not know.
    Unknown,
}

/// State of a channel that both sides know.
#[derive(Debug)]
struct ChannelState {
    /// ssh's number for it.
    peer_channel: u32,
    /// Bytes that ssh may still send.
    receive_window: u32,
    /// Bytes consumed since ssh's window was last widened.
    consumed: u32,
    /// Bytes that the server may still send.
    send_window: u32,
    /// Whether the server has accepted it.
    accepted: bool,
    /// Whether the server has closed it.
    closed: bool,
}

/// A connection's state.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    is_authenticated: bool,
    last_number: u32,
    channels: HashMap<u32, ChannelState>,
    /// Channels that the server has requested and ssh has not answered.
    requested: Vec<u32>,
    outgoing: VecDeque<Message>,
}

impl Connection {
    /// Returns the next message to send.
    pub(crate) fn next_outgoing(&mut self) -> Option<Message> {
        self.outgoing.pop_front()
    }

    /// Handles a message from ssh.
    pub(crate) fn receive(&mut self, message: Bytes) -> Result<Option<Event>, Error> {
        let mut fields = Fields::new(message);
        match fields.byte()? {
            number::SERVICE_REQUEST => {
                let service = fields.text()?;
                if service != USERAUTH {
                    return Err(Error::Unexpected(number::SERVICE_REQUEST));
                }
                self.outgoing.push_back(Message::new(number::SERVICE_ACCEPT).bytes(service.as_bytes()));
                Ok(None)
            }
            number::USERAUTH_REQUEST => self.authenticate(&mut fields),
            number if number >= number::FIRST_OF_CONNECTION && !self.is_authenticated => {
                Err(Error::Unexpected(number))
            }
            number::GLOBAL_REQUEST => {
                let (kind, wants_reply) = (fields.text()?, fields.boolean()?);
                let request = GlobalRequest::read(&kind, &mut fields)?;
                Ok(Some(Event::Global { request, wants_reply }))
            }
            number::OPEN => self.open_requested(&mut fields).map(Some),
            number::CONFIRMATION => self.open_confirmed(&mut fields).map(Some),
            number::OPEN_FAILURE => {
                let channel = fields.u32()?;
                self.remove_requested(channel, number::OPEN_FAILURE)?;
                Ok(Some(Event::Refused { channel }))
            }
            number::WINDOW_ADJUST => self.window_widened(&mut fields),
            number::DATA => {
                let (channel, bytes) = (fields.u32()?, fields.bytes()?);
                Ok(self.count_received(channel, &bytes)?.then_some(Event::Data { channel, bytes }))
            }
            number::EXTENDED_DATA => {
                // A client has no such stream; its bytes still count against the window.
                let (channel, _, bytes) = (fields.u32()?, fields.u32()?, fields.bytes()?);
                if self.count_received(channel, &bytes)? {
                    self.consumed(channel, bytes.len());
                }
                Ok(None)
            }
            number::EOF => {
                let channel = fields.u32()?;
                Ok(self.accepted(channel).map(|_| Event::End { channel }))
            }
            number::CLOSE => {
                let channel = fields.u32()?;
                let Some(state) = self.channels.remove(&channel) else { return Ok(None) };
                if !state.closed {
                    self.outgoing.push_back(Message::new(number::CLOSE).u32(state.peer_channel));
                }
                Ok(Some(Event::Closed { channel }))
            }
            number::REQUEST => self.request(&mut fields),
            number::REQUEST_SUCCESS | number::REQUEST_FAILURE | number::SUCCESS | number::FAILURE => Ok(None),
            _ => Ok(Some(Event::Unknown)),
        }
    }

    /// Accepts every user: the peer is already the server's user.
    fn authenticate(&mut self, fields: &mut Fields) -> Result<Option<Event>, Error> {
        let (user, service) = (fields.text()?, fields.text()?);
        if service != CONNECTION {
            return Err(Error::Unexpected(number::USERAUTH_REQUEST));
        }
        if std::mem::replace(&mut self.is_authenticated, true) {
            return Ok(None);
        }
        self.outgoing.push_back(Message::new(number::USERAUTH_SUCCESS));
        Ok(Some(Event::Authenticated { user }))
    }

    /// Returns an unused channel number.
    fn next_number(&mut self) -> u32 {
        loop {
            self.last_number = self.last_number.wrapping_add(1);
            if !self.channels.contains_key(&self.last_number) && !self.requested.contains(&self.last_number) {
                return self.last_number;
            }
        }
    }

    /// Records a channel with ssh's number and terms, which the message has next.
    fn add_channel(&mut self, channel: u32, accepted: bool, fields: &mut Fields) -> Result<Terms, Error> {
        let (peer_channel, window, max_packet) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let state = ChannelState {
            peer_channel,
            receive_window: WINDOW_SIZE,
            consumed: 0,
            send_window: window,
            accepted,
            closed: false,
        };
        self.channels.insert(channel, state);
        Ok(Terms { window, max_packet: max_packet.clamp(1, MAX_PACKET) })
    }

    fn open_requested(&mut self, fields: &mut Fields) -> Result<Event, Error> {
        let kind = fields.text()?;
        let channel = self.next_number();
        let terms = self.add_channel(channel, false, fields)?;
        Ok(Event::Open { channel, target: Target::read(&kind, fields)?, terms })
    }

    fn open_confirmed(&mut self, fields: &mut Fields) -> Result<Event, Error> {
        let channel = fields.u32()?;
        self.remove_requested(channel, number::CONFIRMATION)?;
        let terms = self.add_channel(channel, true, fields)?;
        Ok(Event::Opened { channel, terms })
    }

    /// Forgets a request for a channel, which the message `number` answers.
    fn remove_requested(&mut self, channel: u32, number: u8) -> Result<(), Error> {
        let position = self.requested.iter().position(|requested| *requested == channel);
        self.requested.swap_remove(position.ok_or(Error::Unexpected(number))?);
        Ok(())
    }

    fn window_widened(&mut self, fields: &mut Fields) -> Result<Option<Event>, Error> {
        let (channel, bytes) = (fields.u32()?, fields.u32()?);
        let Some(state) = self.channels.get_mut(&channel) else { return Ok(None) };
        state.send_window = state.send_window.checked_add(bytes).ok_or(Error::Malformed)?;
        Ok(Some(Event::WindowWidened { channel, bytes }))
    }

    /// Counts received bytes against ssh's window; returns false if nothing reads the channel.
    fn count_received(&mut self, channel: u32, bytes: &Bytes) -> Result<bool, Error> {
        let Some(state) = self.channels.get_mut(&channel).filter(|state| state.accepted) else {
            return Ok(false);
        };
        let count = u32::try_from(bytes.len()).map_err(|_| Error::TooLong)?;
        state.receive_window = state.receive_window.checked_sub(count).ok_or(Error::TooLong)?;
        Ok(true)
    }

    fn request(&mut self, fields: &mut Fields) -> Result<Option<Event>, Error> {
        let (channel, kind, wants_reply) = (fields.u32()?, fields.text()?, fields.boolean()?);
        if self.accepted(channel).is_none() {
            return Ok(None);
        }
        Ok(Some(match Control::read(&kind, fields)? {
            Some(control) => Event::Control { channel, control, wants_reply },
            None => Event::Request { channel, request: Request::read(&kind, fields)?, wants_reply },
        }))
    }

    /// Returns the state of a channel that the server has accepted.
    fn accepted(&self, channel: u32) -> Option<&ChannelState> {
        self.channels.get(&channel).filter(|state| state.accepted)
    }

    /// Returns the state of a channel to which the server may still send.
    fn open_channel(&mut self, channel: u32) -> Option<&mut ChannelState> {
        self.channels.get_mut(&channel).filter(|state| state.accepted && !state.closed)
    }

    /// Sends a message about a channel to which the server may still send.
    fn send_about(&mut self, channel: u32, number: u8, finish: impl FnOnce(Message) -> Message) {
        if let Some(state) = self.open_channel(channel) {
            let message = Message::new(number).u32(state.peer_channel);
            self.outgoing.push_back(finish(message));
        }
    }
}

/// Commands. Those for a channel that ssh has closed are ignored.
impl Connection {
    /// Requests a channel from ssh; returns its number.
    pub(crate) fn open(&mut self, source: &Source) -> u32 {
        let channel = self.next_number();
        self.requested.push(channel);
        let (kind, fields) = source.kind_and_fields();
        let open = Message::new(number::OPEN).bytes(kind.as_bytes()).u32(channel);
        self.outgoing.push_back(open.u32(WINDOW_SIZE).u32(MAX_PACKET).raw(fields.as_bytes()));
        channel
    }

    /// Accepts a channel that ssh requested.
    pub(crate) fn accept(&mut self, channel: u32) {
        let Some(state) = self.channels.get_mut(&channel).filter(|state| !state.accepted) else { return };
        state.accepted = true;
        let message = Message::new(number::CONFIRMATION).u32(state.peer_channel).u32(channel);
        self.outgoing.push_back(message.u32(WINDOW_SIZE).u32(MAX_PACKET));
    }

    /// Refuses a channel that ssh requested.
    pub(crate) fn refuse(&mut self, channel: u32, reason: &Refusal) {
        if self.accepted(channel).is_some() {
            return;
        }
        let Some(state) = self.channels.remove(&channel) else { return };
        let (code, why) = reason.code_and_reason();
        let message = Message::new(number::OPEN_FAILURE).u32(state.peer_channel).u32(code);
        self.outgoing.push_back(message.bytes(why.as_bytes()).bytes(b""));
    }

    /// Sends data, which must fit in ssh's window; data beyond it is dropped.
    pub(crate) fn send_data(&mut self, channel: u32, stream: Stream, bytes: &[u8]) {
        let Some(state) = self.open_channel(channel) else { return };
        let count = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let Some(window) = state.send_window.checked_sub(count) else { return };
        state.send_window = window;
        match stream {
            Stream::Output => self.send_about(channel, number::DATA, |message| message.bytes(bytes)),
            Stream::Error => {
                self.send_about(channel, number::EXTENDED_DATA, |message| message.u32(STDERR).bytes(bytes));
            }
        }
    }

    /// Sends the end of the data.
    pub(crate) fn end(&mut self, channel: u32) {
        self.send_about(channel, number::EOF, |message| message);
    }

    /// Reports how the channel's program ended.
    pub(crate) fn exit(&mut self, channel: u32, exit: Exit) {
        let (kind, fields) = exit.kind_and_fields();
        self.send_about(channel, number::REQUEST, |message| {
            message.bytes(kind.as_bytes()).boolean(false).raw(fields.as_bytes())
        });
    }

    /// Closes a channel.
    pub(crate) fn close(&mut self, channel: u32) {
        self.send_about(channel, number::CLOSE, |message| message);
        if let Some(state) = self.open_channel(channel) {
            state.closed = true;
        }
    }

    /// Counts `bytes` as consumed, and widens ssh's window once that is worth a message.
    pub(crate) fn consumed(&mut self, channel: u32, bytes: usize) {
        let Some(state) = self.open_channel(channel) else { return };
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        // No more than ssh has sent.
        state.consumed = state.consumed.saturating_add(bytes).min(WINDOW_SIZE - state.receive_window);
        if state.consumed < WINDOW_SIZE / 2 {
            return;
        }
        let more = std::mem::take(&mut state.consumed);
        state.receive_window += more;
        self.send_about(channel, number::WINDOW_ADJUST, |message| message.u32(more));
    }

    /// Answers a request about a channel.
    pub(crate) fn answer(&mut self, channel: u32, success: bool) {
        let number = if success { number::SUCCESS } else { number::FAILURE };
        self.send_about(channel, number, |message| message);
    }

    /// Answers the oldest global request.
    pub(crate) fn answer_global(&mut self, answer: GlobalAnswer) {
        self.outgoing.push_back(match answer {
            GlobalAnswer::Succeeded => Message::new(number::REQUEST_SUCCESS),
            GlobalAnswer::Port(port) => Message::new(number::REQUEST_SUCCESS).u32(port.into()),
            GlobalAnswer::Failed => Message::new(number::REQUEST_FAILURE),
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn authenticated() -> Connection {
        let mut connection = Connection::default();
        let login = Message::new(number::USERAUTH_REQUEST).bytes(b"root").bytes(b"ssh-connection");
        let event = receive(&mut connection, &login.bytes(b"none")).unwrap();
        assert_eq!(event, Some(Event::Authenticated { user: "root".to_owned() }));
        sent(&mut connection);
        connection
    }

    fn receive(connection: &mut Connection, message: &Message) -> Result<Option<Event>, Error> {
        connection.receive(Bytes::copy_from_slice(message.as_bytes()))
    }

    fn sent(connection: &mut Connection) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| connection.next_outgoing()).map(|message| message.as_bytes().to_vec()).collect()
    }

    /// Opens channel 1, which ssh calls 7, with this window.
    fn open(connection: &mut Connection, window: u32) {
        let open = Message::new(number::OPEN).bytes(b"session").u32(7).u32(window).u32(1000);
        let terms = Terms { window, max_packet: 1000 };
        let event = receive(connection, &open).unwrap();
        assert_eq!(event, Some(Event::Open { channel: 1, target: Target::Session, terms }));
        connection.accept(1);
        let [confirmed] = sent(connection).try_into().unwrap();
        assert_eq!(confirmed[..9], [number::CONFIRMATION, 0, 0, 0, 7, 0, 0, 0, 1]);
    }

    fn data(length: usize) -> Message {
        Message::new(number::DATA).u32(1).bytes(&vec![0; length])
    }

    #[test]
    fn data_beyond_the_window_is_rejected_and_consumption_widens_it() {
        let mut connection = authenticated();
        open(&mut connection, 0);
        for _ in 0..WINDOW_SIZE / MAX_PACKET {
            receive(&mut connection, &data(MAX_PACKET as usize)).unwrap();
        }
        connection.consumed(1, WINDOW_SIZE as usize / 2 - 1);
        assert_eq!(sent(&mut connection), [] as [Vec<u8>; 0]);
        connection.consumed(1, 1);
        let adjust = Message::new(number::WINDOW_ADJUST).u32(7).u32(WINDOW_SIZE / 2);
        assert_eq!(sent(&mut connection), [adjust.as_bytes()]);
        for _ in 0..WINDOW_SIZE / 2 / MAX_PACKET {
            receive(&mut connection, &data(MAX_PACKET as usize)).unwrap();
        }
        assert!(matches!(receive(&mut connection, &data(1)), Err(Error::TooLong)));
    }

    #[test]
    fn consuming_more_than_was_received_never_widens_the_window_beyond_its_size() {
        let mut connection = authenticated();
        open(&mut connection, 0);
        connection.consumed(1, usize::MAX);
        assert_eq!(sent(&mut connection), [] as [Vec<u8>; 0]);
        for _ in 0..WINDOW_SIZE / MAX_PACKET {
            receive(&mut connection, &data(MAX_PACKET as usize)).unwrap();
        }
        assert!(receive(&mut connection, &data(1)).is_err());
    }

    #[test]
    fn extended_data_from_ssh_is_dropped_and_widens_the_window() {
        let mut connection = authenticated();
        open(&mut connection, 0);
        for _ in 0..WINDOW_SIZE / MAX_PACKET * 3 {
            let extended = Message::new(number::EXTENDED_DATA).u32(1).u32(1);
            let event = receive(&mut connection, &extended.bytes(&vec![0; MAX_PACKET as usize]));
            assert_eq!(event.unwrap(), None);
        }
        assert_eq!(sent(&mut connection).len(), 6);
    }

    #[test]
    fn a_closed_channel_ignores_further_commands_and_data() {
        let mut connection = authenticated();
        open(&mut connection, 10);
        let event = receive(&mut connection, &Message::new(number::CLOSE).u32(1)).unwrap();
        assert_eq!(event, Some(Event::Closed { channel: 1 }));
        assert_eq!(sent(&mut connection), [Message::new(number::CLOSE).u32(7).as_bytes()]);
        connection.end(1);
        connection.close(1);
        connection.send_data(1, Stream::Output, b"late");
        connection.consumed(1, WINDOW_SIZE as usize);
        assert_eq!(receive(&mut connection, &data(3)).unwrap(), None);
        assert_eq!(sent(&mut connection), [] as [Vec<u8>; 0]);
    }

    #[test]
    fn the_server_closes_a_channel_once() {
        let mut connection = authenticated();
        open(&mut connection, 10);
        connection.close(1);
        connection.close(1);
        let closed = Message::new(number::CLOSE);
        assert_eq!(sent(&mut connection), [closed.clone().u32(7).as_bytes()]);
        let event = receive(&mut connection, &closed.u32(1)).unwrap();
        assert_eq!(event, Some(Event::Closed { channel: 1 }));
        assert_eq!(sent(&mut connection), [] as [Vec<u8>; 0]);
    }

    #[test]
    fn opening_a_channel_requires_authentication() {
        let open = Message::new(number::OPEN).bytes(b"session").u32(7).u32(9).u32(9);
        let result = receive(&mut Connection::default(), &open);
        assert!(matches!(result, Err(Error::Unexpected(number::OPEN))));
    }

    #[test]
    fn answers_to_requests_that_were_not_made_are_rejected() {
        for number in [number::CONFIRMATION, number::OPEN_FAILURE] {
            let mut connection = authenticated();
            let channel = connection.open(&Source::Agent);
            let answer = |channel: u32| Message::new(number).u32(channel).u32(1).u32(1).u32(1);
            assert!(receive(&mut connection, &answer(channel + 1)).is_err());
            assert!(receive(&mut connection, &answer(channel)).is_ok());
            assert!(receive(&mut connection, &answer(channel)).is_err());
        }
    }

    /// A step of the server's side.
    #[derive(Debug, Clone)]
    enum Command {
        Accept(u32),
        Refuse(u32),
        Data(u32, usize),
        Consumed(u32, usize),
        Close(u32),
        Open,
    }

    fn any_command() -> impl Strategy<Value = Command> {
        prop_oneof![
            (1u32..4).prop_map(Command::Accept),
            (1u32..4).prop_map(Command::Refuse),
            (1u32..4, 0usize..3000).prop_map(|(channel, count)| Command::Data(channel, count)),
            (1u32..4, any::<usize>()).prop_map(|(channel, count)| Command::Consumed(channel, count)),
            (1u32..4).prop_map(Command::Close),
            Just(Command::Open),
        ]
    }

    proptest! {
        /// No sequence of messages and commands sends more than ssh's window allows, or panics.
        #[test]
        fn any_messages_are_handled_or_rejected(
            steps in prop::collection::vec(
                prop_oneof![
                    (80u8..101, prop::collection::vec(0u8..6, 0..60)).prop_map(Ok),
                    any_command().prop_map(Err),
                ],
                0..60,
            ),
        ) {
            let mut connection = authenticated();
            open(&mut connection, 1000);
            let mut windows = HashMap::from([(7, 1000_u64)]);
            for step in steps {
                match step {
                    Ok((number, rest)) => {
                        // A refused message ends the connection, and must do no harm before that.
                        let event = receive(&mut connection, &Message::new(number).raw(&rest));
                        if let Ok(Some(Event::WindowWidened { channel: 1, bytes })) = event {
                            *windows.entry(7).or_default() += u64::from(bytes);
                        }
                    }
                    Err(Command::Accept(channel)) => connection.accept(channel),
                    Err(Command::Refuse(channel)) => connection.refuse(channel, &Refusal::TooMany),
                    Err(Command::Data(channel, count)) => {
                        connection.send_data(channel, Stream::Output, &vec![0; count]);
                    }
                    Err(Command::Consumed(channel, count)) => connection.consumed(channel, count),
                    Err(Command::Close(channel)) => connection.close(channel),
                    Err(Command::Open) => _ = connection.open(&Source::Agent),
                }
                for message in sent(&mut connection) {
                    if message[0] == number::DATA && message[1..5] == [0, 0, 0, 7] {
                        let window = windows.get_mut(&7).unwrap();
                        *window = window.checked_sub(message.len() as u64 - 9).expect("beyond the window");
                    }
                }
            }
        }
    }
}
