//! The start of every conversation, and requests that have a single reply.

use banger_proto::Reply;

use super::{
    draft::Draft,
    replies::{any, failed, inspected, listeners, malformed},
};
use crate::{
    Action, Conversation,
    choices::Choices,
    encode::{greeting, message, reply},
    texts::text,
};

/// Starts a conversation: the greeting, and the client's request, which contains the words `request`.
pub(super) fn greeted(choices: &mut Choices<'_>, request: &'static str) -> Draft {
    let mut draft = Draft::default();
    let version = if choices.chance(20) { text(choices) } else { "1".to_owned() };
    draft.send(match choices.below(40) {
        38 => malformed(choices),
        39 => {
            message(&serde_json::json!({"generation": choices.below(4), "version": "0", "boot_id": version}))
        }
        _ => greeting(&version),
    });
    draft.actions.push(Action::AwaitRequest(request));
    draft
}

/// Returns `expected`, or sometimes another reply.
pub(super) fn mostly(choices: &mut Choices<'_>, expected: Reply) -> Vec<u8> {
    match choices.below(20) {
        17 => reply(&failed(choices)),
        18 => reply(&any(choices)),
        19 => malformed(choices),
        _ => reply(&expected),
    }
}

pub(super) fn ports(choices: &mut Choices<'_>) -> Conversation {
    let mut draft = greeted(choices, "");
    let listeners = listeners(choices);
    draft.send(mostly(choices, Reply::Ports { listeners }));
    draft.finish(choices, false)
}

pub(super) fn pong(choices: &mut Choices<'_>) -> Conversation {
    let mut draft = greeted(choices, "");
    draft.send(mostly(choices, Reply::Pong));
    draft.finish(choices, false)
}

pub(super) fn inspection(choices: &mut Choices<'_>) -> Conversation {
    let mut draft = greeted(choices, "");
    let inspection = inspected(choices);
    draft.send(mostly(choices, Reply::Inspected(inspection)));
    draft.finish(choices, false)
}
