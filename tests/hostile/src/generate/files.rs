//! Copies out of the guest and into it.

use banger_proto::{Frame, Reply, Stream};

use super::{
    draft::Draft,
    replies::exit_status,
    single::{greeted, mostly},
};
use crate::{
    Action, Conversation, Item,
    choices::Choices,
    encode::{frame, reply, stream},
    texts::{name, target, text},
};

/// Maximum number of items in a stream.
const MAX_ITEMS: usize = 12;

/// Sizes of the frames in which a stream arrives.
const CHUNKS: [usize; 4] = [64 << 10, 1, 7, 300];

/// The guest's end of `vm cp VM:SOURCE`.
pub(super) fn copy(choices: &mut Choices<'_>, source: &str) -> Conversation {
    let mut draft = greeted(choices, "");
    draft.send(mostly(choices, Reply::Started { pid: 1 }));
    let asked = source.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let asked = if matches!(asked, "." | "..") { "" } else { asked };
    let bytes = stream(&items(choices, asked.as_bytes()));
    send_data(choices, &mut draft, &bytes);
    end(choices, &mut draft);
    draft.finish(choices, false)
}

/// The guest's end of `vm cp SOURCE VM:`.
pub(super) fn upload(choices: &mut Choices<'_>) -> Conversation {
    let mut draft = greeted(choices, "");
    draft.send(mostly(choices, Reply::Started { pid: 1 }));
    if !choices.chance(10) {
        draft.actions.push(Action::AwaitInput);
    }
    end(choices, &mut draft);
    draft.finish(choices, false)
}

/// Adds the end of an exec of the agent itself: messages, and the exit status.
pub(super) fn end(choices: &mut Choices<'_>, draft: &mut Draft) {
    for _ in 0..choices.below(3) {
        let line = format!("{}\n", text(choices));
        draft.send(frame(&Frame::Data(Stream::Stderr, line.into_bytes().into())));
    }
    draft.send(reply(&Reply::Exited { status: exit_status(choices) }));
}

pub(super) fn send_data(choices: &mut Choices<'_>, draft: &mut Draft, bytes: &[u8]) {
    // Few pieces, so that a case stays fast.
    let size = (*choices.pick(&CHUNKS)).max(bytes.len() / 64 + 1);
    for chunk in bytes.chunks(size) {
        draft.send(frame(&Frame::Data(Stream::Stdout, chunk.to_vec().into())));
    }
}

fn items(choices: &mut Choices<'_>, asked: &[u8]) -> Vec<Item> {
    let mut items = Vec::new();
    let top = if choices.chance(40) { name(choices) } else { asked.to_vec() };
    if choices.chance(50) {
        items.push(Item::Directory(top));
        let count = choices.below(MAX_ITEMS);
        let mut names = Vec::new();
        let mut depth = 1;
        for _ in 0..count {
            // A name that was used before: a file over a link, a directory over a file.
            let name = if !names.is_empty() && choices.chance(25) {
                Clone::clone(choices.pick(&names))
            } else {
                name(choices)
            };
            names.push(name.clone());
            let item = item(choices, name);
            match item {
                Item::Directory(_) => depth += 1,
                Item::Leave => depth -= 1,
                _ => {}
            }
            items.push(item);
        }
        items.extend((0..depth).map(|_| Item::Leave));
    } else {
        items.push(match choices.below(4) {
            3 => Item::Link(top, target(choices)),
            _ => item_of_content(choices, top),
        });
    }
    if !choices.chance(5) {
        items.push(Item::End);
    }
    if choices.chance(5) {
        items.push(Item::Raw(choices.bytes(30)));
    }
    items
}

fn item(choices: &mut Choices<'_>, name: Vec<u8>) -> Item {
    match choices.below(12) {
        0..5 => item_of_content(choices, name),
        5..8 => Item::Directory(name),
        8 => Item::Leave,
        9 | 10 => Item::Link(name, target(choices)),
        _ => Item::Remove(name),
    }
}

fn item_of_content(choices: &mut Choices<'_>, name: Vec<u8>) -> Item {
    match choices.below(10) {
        0..6 => Item::File(name, b"FORGED\n".to_vec()),
        6 => Item::File(name, text(choices).into_bytes()),
        7 => Item::File(name, vec![b'x'; choices.below(300_000)]),
        8 => Item::BrokenFile(name, b"FORGED\n".to_vec()),
        _ => Item::FileOfLength(name, choices.number()),
    }
}
