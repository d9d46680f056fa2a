//! Programs and sockets in the guest, and its console.

use banger_proto::{Endpoint, Frame, Reply, Stream};
use rustix::process::Signal;

use super::{
    draft::{Draft, MAX_REPEATED},
    replies::{any, exit_status},
    single::{greeted, mostly},
};
use crate::{
    Action, Conversation,
    choices::Choices,
    encode::{frame, reply},
    texts::text,
};

/// A program. If `silent`, it writes nothing, and nothing that the guest sends could be taken for its output.
pub(super) fn program(choices: &mut Choices<'_>, silent: bool) -> Conversation {
    let mut draft = greeted(choices, "");
    draft.send(mostly(choices, Reply::Started { pid: 1 }));
    if silent {
        let status = exit_status(choices);
        let last = if choices.chance(20) { any(choices) } else { Reply::Exited { status } };
        let action =
            if choices.chance(3) { Action::StaySilentUntil(Signal::INT) } else { Action::Send(reply(&last)) };
        draft.actions.push(action);
        return Conversation(draft.actions);
    }
    for _ in 0..choices.below(4) {
        draft.send(output(choices));
    }
    draft.send(reply(&Reply::Exited { status: exit_status(choices) }));
    draft.finish(choices, true)
}

fn output(choices: &mut Choices<'_>) -> Vec<u8> {
    let stream = *choices.pick(&[Stream::Stdout, Stream::Stderr, Stream::Stdin]);
    let bytes = if choices.chance(20) { vec![b'z'; 1 << 20] } else { text(choices).into_bytes() };
    frame(&Frame::Data(stream, bytes.into()))
}

/// A socket.
pub(super) fn socket(choices: &mut Choices<'_>) -> Conversation {
    let mut draft = greeted(choices, "");
    draft.send(mostly(choices, Reply::Connected));
    for _ in 0..choices.below(3) {
        draft.send(output(choices));
    }
    draft.send(reply(&Reply::Closed));
    Conversation(draft.actions)
}

/// A session with a socket that listens in the guest, and connections to it.
pub(super) fn listener(choices: &mut Choices<'_>) -> Vec<Conversation> {
    let mut draft = greeted(choices, "");
    let at = match choices.below(3) {
        0 => Endpoint::Tcp { host: "localhost".to_owned(), port: choices.number() },
        1 => Endpoint::Tcp { host: text(choices), port: 0 },
        _ => Endpoint::Unix { path: text(choices).into_bytes() },
    };
    draft.send(mostly(choices, Reply::Listening { at }));
    let count = choices.below(4);
    for _ in 0..count {
        draft.send(reply(&Reply::Incoming { id: choices.number(), from: None }));
    }
    draft.send(reply(&any(choices)));
    let program = program(choices, true);
    let sockets: Vec<_> = (0..count).map(|_| socket(choices)).collect();
    [program, Conversation(draft.actions)].into_iter().chain(sockets).collect()
}

/// What a guest writes to its console, which is no conversation.
pub(super) fn log(choices: &mut Choices<'_>) -> Conversation {
    let mut draft = Draft::default();
    for _ in 0..choices.below(4) {
        let text = text(choices);
        draft.send(if choices.chance(20) { choices.bytes(30) } else { text.into_bytes() });
    }
    if choices.chance(5) {
        draft.actions.push(Action::SendRepeatedly(vec![b'\x1b'; 4096], MAX_REPEATED));
    }
    Conversation(draft.actions)
}
