use proptest::prelude::*;

use super::*;
use crate::ssh::wire::HostKey;

/// A server that accepts every session and every request.
#[derive(Default)]
struct AcceptAll {
    channels: Vec<Channel>,
    closed: Vec<u32>,
}

impl Handler for AcceptAll {
    fn set_user(&mut self, _: String) {}

    fn open(
        &mut self,
        kind: &str,
        channel: Channel,
        _: &mut Fields,
    ) -> Result<Option<Result<(), Refusal>>, WireError> {
        if kind != "session" {
            return Ok(Some(Err(Refusal::UnknownKind)));
        }
        self.channels.push(channel);
        Ok(Some(Ok(())))
    }

    fn request(&mut self, _: u32, _: &str, _: &mut Fields) -> Result<bool, WireError> {
        Ok(true)
    }

    fn global(&mut self, _: &str, _: bool, _: &mut Fields) -> Result<(), WireError> {
        Ok(())
    }

    fn closed(&mut self, channel: u32) {
        self.closed.push(channel);
    }
}

/// Returns an authenticated connection, and the commands of its channels' tasks.
fn connection() -> (Connection<AcceptAll>, mpsc::Receiver<Command>) {
    let transport = Transport::new(HostKey::read(&HostKey::generate().unwrap()).unwrap()).unwrap();
    let (commands, queue) = mpsc::channel(MAX_COMMANDS);
    let mut connection = Connection::new(transport, AcceptAll::default(), Link::new(commands));
    let login = Message::new(number::USERAUTH_REQUEST).bytes(b"root").bytes(b"ssh-connection");
    receive(&mut connection, &login.bytes(b"none")).unwrap();
    sent(&mut connection);
    (connection, queue)
}

fn receive(connection: &mut Connection<AcceptAll>, message: &Message) -> Result<(), WireError> {
    connection.receive(Bytes::copy_from_slice(message.as_bytes()))
}

/// Opens a channel that ssh calls 7, with this window.
fn open(connection: &mut Connection<AcceptAll>, window: u32) -> Channel {
    let open = Message::new(number::OPEN).bytes(b"session").u32(7).u32(window).u32(1000);
    receive(connection, &open).unwrap();
    let [confirmed] = sent(connection).try_into().unwrap();
    assert_eq!(confirmed[..9], [number::CONFIRMATION, 0, 0, 0, 7, 0, 0, 0, 1]);
    connection.server.channels.remove(0)
}

fn data(length: usize) -> Message {
    Message::new(number::DATA).u32(1).bytes(&vec![0; length])
}

/// Returns the messages sent since the last call; they are in clear because no keys were exchanged.
fn sent(connection: &mut Connection<AcceptAll>) -> Vec<Vec<u8>> {
    let out = connection.transport.buffers().1.split();
    let mut remaining = &out[..];
    if remaining.starts_with(b"SSH-") {
        remaining = &remaining[remaining.iter().position(|byte| *byte == b'\n').unwrap() + 1..];
    }
    let mut messages = Vec::new();
    while let Some((header, rest)) = remaining.split_first_chunk::<4>() {
        let (packet, rest) = rest.split_at(u32::from_be_bytes(*header) as usize);
        messages.push(packet[1..packet.len() - usize::from(packet[0])].to_vec());
        remaining = rest;
    }
    messages
}

#[test]
fn data_beyond_the_window_is_rejected_and_consumption_widens_it() {
    let (mut connection, _queue) = connection();
    let _channel = open(&mut connection, 0);
    for _ in 0..WINDOW_SIZE / MAX_PACKET {
        receive(&mut connection, &data(MAX_PACKET as usize)).unwrap();
    }
    connection.execute(Command::Consumed { channel: 1, bytes: WINDOW_SIZE / 2 - 1 }).unwrap();
    assert_eq!(sent(&mut connection), [] as [Vec<u8>; 0]);
    connection.execute(Command::Consumed { channel: 1, bytes: 1 }).unwrap();
    let adjust = Message::new(number::WINDOW_ADJUST).u32(7).u32(WINDOW_SIZE / 2);
    assert_eq!(sent(&mut connection), [adjust.as_bytes()]);
    for _ in 0..WINDOW_SIZE / 2 / MAX_PACKET {
        receive(&mut connection, &data(MAX_PACKET as usize)).unwrap();
    }
    assert!(matches!(receive(&mut connection, &data(1)), Err(WireError::TooLong)));
}

#[test]
fn data_for_a_dropped_channel_still_widens_the_window() {
    let (mut connection, _queue) = connection();
    drop(open(&mut connection, 0));
    for _ in 0..WINDOW_SIZE / MAX_PACKET * 3 {
        receive(&mut connection, &data(MAX_PACKET as usize)).unwrap();
    }
    assert_eq!(sent(&mut connection).len(), 6);
}

#[tokio::test]
async fn the_writer_sends_no_more_than_sshs_window() {
    let (mut connection, mut queue) = connection();
    let channel = open(&mut connection, 10);
    let writing = tokio::spawn(async move { channel.writer.write(vec![0; 25].into(), None).await });
    let mut sizes = Vec::new();
    while sizes.iter().sum::<usize>() < 25 {
        let Some(Command::Data { bytes, .. }) = queue.recv().await else { panic!("no data") };
        sizes.push(bytes.len());
        if sizes.iter().sum::<usize>() == 10 {
            assert!(queue.try_recv().is_err());
            receive(&mut connection, &Message::new(number::WINDOW_ADJUST).u32(1).u32(15)).unwrap();
        }
    }
    assert_eq!(sizes.iter().sum::<usize>(), 25);
    writing.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_closed_channel_ignores_further_commands_and_data() {
    let (mut connection, _queue) = connection();
    let mut channel = open(&mut connection, 10);
    receive(&mut connection, &data(3)).unwrap();
    receive(&mut connection, &Message::new(number::CLOSE).u32(1)).unwrap();
    assert_eq!(sent(&mut connection), [Message::new(number::CLOSE).u32(7).as_bytes()]);
    assert_eq!(connection.server.closed, [1]);
    assert!(channel.controls.recv().await.is_none());
    assert!(channel.writer.write(vec![0; 20].into(), None).await.is_err());
    for late in [Command::Eof(1), Command::Close(1), Command::Consumed { channel: 1, bytes: WINDOW_SIZE }] {
        connection.execute(late).unwrap();
    }
    receive(&mut connection, &data(3)).unwrap();
    assert_eq!(sent(&mut connection), [] as [Vec<u8>; 0]);
}

#[test]
fn opening_a_channel_requires_authentication() {
    let (mut connection, _queue) = connection();
    connection.is_authenticated = false;
    let open = Message::new(number::OPEN).bytes(b"session").u32(7).u32(9).u32(9);
    assert!(matches!(receive(&mut connection, &open), Err(WireError::Unexpected(number::OPEN))));
}

proptest! {
    #[test]
    fn any_messages_are_handled_or_rejected(
        messages in prop::collection::vec((0u8..110, prop::collection::vec(0u8..12, 0..60)), 0..40),
    ) {
        let (mut connection, _queue) = connection();
        let _channel = open(&mut connection, 10);
        for (number, rest) in messages {
            // A refused message ends the connection, and must do no harm before that.
            let _ = receive(&mut connection, &Message::new(number).raw(&rest));
        }
    }
}
