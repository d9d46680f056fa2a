//! The two layers of a connection, for fuzz targets: packets before the keys are exchanged, and messages after it.

use bytes::Bytes;

use crate::{
    connection::Connection,
    fields::Message,
    host_key::HostKey,
    requests::{Exit, GlobalAnswer, Refusal, Source, Stream},
    transport::Transport,
};

/// Maximum number of bytes that the server answers to one message from ssh, without data: a few short messages.
const MAX_ANSWER: usize = 1024;

/// Receives `bytes` from ssh in chunks of `step` bytes.
///
/// # Panics
/// Panics if the server keeps bytes that it has read.
pub fn ssh_transport(bytes: &[u8], step: usize) {
    let key = HostKey::generate().ok().and_then(|bytes| HostKey::read(&bytes).ok());
    let Some(mut transport) = key.and_then(|key| Transport::new(key).ok()) else { return };
    for chunk in bytes.chunks(step.max(1)) {
        transport.buffers().0.extend_from_slice(chunk);
        while let Ok(Some(_)) = transport.next() {}
        if transport.next().is_err() {
            return;
        }
    }
    assert!(transport.buffers().0.len() <= bytes.len(), "the server has more bytes than ssh sent");
}

/// Receives messages from ssh after a login, each with its length in two bytes before it. A message that begins with a
/// high number is a command of a channel's task.
///
/// # Panics
/// Panics if a message makes the server answer far more than it received.
pub fn ssh_channels(mut bytes: &[u8]) {
    let mut connection = Connection::default();
    let login = Message::new(50).bytes(b"root").bytes(b"ssh-connection").bytes(b"none");
    let mut valid = connection.receive(Bytes::copy_from_slice(login.as_bytes())).is_ok();
    while let (true, Some((length, rest))) = (valid, bytes.split_first_chunk::<2>()) {
        let (message, rest) = rest.split_at(usize::from(u16::from_be_bytes(*length)).min(rest.len()));
        bytes = rest;
        match message.split_first() {
            Some((kind @ 200.., fields)) => command(&mut connection, *kind, fields),
            _ => valid = connection.receive(Bytes::copy_from_slice(message)).is_ok(),
        }
        let mut answered = 0;
        while let Some(answer) = connection.next_outgoing() {
            answered += answer.as_bytes().len();
        }
        assert!(answered <= message.len() + MAX_ANSWER, "{answered} bytes answer {message:?}");
    }
}

/// Executes what a channel's task could request.
fn command(connection: &mut Connection, kind: u8, fields: &[u8]) {
    let Some((channel, rest)) = fields.split_first_chunk::<4>() else { return };
    let channel = u32::from_be_bytes(*channel);
    match kind {
        200 => connection.accept(channel),
        201 => {
            connection.refuse(channel, &Refusal::ConnectFailed(String::from_utf8_lossy(rest).into()));
        }
        202 => connection.end(channel),
        203 => connection.close(channel),
        204 => connection.consumed(channel, usize::from(rest.first().copied().unwrap_or_default()) << 16),
        205 => connection.send_data(channel, Stream::Output, rest),
        206 => connection.exit(channel, Exit::Status(channel)),
        207 => _ = connection.open(&Source::Agent),
        _ => connection.answer_global(GlobalAnswer::Failed),
    }
}
