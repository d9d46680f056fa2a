//! Workspaces: listings, files, and what the guest's git says.

use banger_proto::{Frame, Reply, Stream};

use super::{
    draft::Draft,
    files::{end, send_data},
    replies::exit_status,
    single::{greeted, mostly},
};
use crate::{
    Action, Conversation, Item, Listed, Workspace,
    choices::Choices,
    encode::{frame, listing, reply, stream},
    texts::{name, path, target, text},
};

/// Names of refs that the guest's git advertises.
const REFS: [&str; 9] = [
    "refs/heads/main",
    "refs/heads/work",
    "refs/heads/../../main",
    "refs/heads/a b",
    "refs/heads/\x1b[2J",
    "refs/heads/\u{202e}x",
    "refs/tags/v1",
    "refs/banger/box/x",
    "HEAD",
];

/// Returns the guest's side of an export, a pull or a rescue. A rescue lists the workspace twice.
pub(super) fn changes(choices: &mut Choices<'_>, workspace: &Workspace) -> Vec<Conversation> {
    let mut listed = workspace.listed.clone();
    let has_own_refs = choices.chance(30);
    if has_own_refs {
        listed.push(Listed { path: b".git/refs/heads/work".to_vec(), ..listed[0].clone() });
    }
    let extra = change_listing(choices, &mut listed);
    let listing = list(choices, &listed);
    let twice = choices.chance(40).then(|| listing.clone());
    let mut conversations: Vec<_> = twice.into_iter().chain([listing]).collect();
    conversations.push(fetch(choices, &workspace.rules));
    conversations.push(fetch(choices, &extra));
    if has_own_refs {
        conversations.push(upload_pack(choices, workspace));
    }
    conversations
}

/// Returns the guest's side of sending changes: it lists the workspace, and accepts what comes.
pub(super) fn update(choices: &mut Choices<'_>, workspace: &Workspace) -> Vec<Conversation> {
    let mut listed = workspace.listed.clone();
    change_listing(choices, &mut listed);
    let listing = list(choices, &listed);
    let mut draft = greeted(choices);
    draft.send(mostly(choices, Reply::Started { pid: 1 }));
    draft.actions.push(Action::AwaitInput);
    let time = if choices.chance(70) { crate::workspace::placed_at().to_vec() } else { choices.bytes(20) };
    send_data(choices, &mut draft, &time);
    end(choices, &mut draft);
    vec![listing, draft.finish(choices, false)]
}

/// Changes a listing; returns files for the changed paths.
fn change_listing(choices: &mut Choices<'_>, listed: &mut Vec<Listed>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut files = Vec::new();
    for _ in 0..choices.below(4) {
        let at = choices.below(listed.len());
        match choices.below(6) {
            0 => _ = listed.remove(at),
            1 => listed[at].size = choices.number(),
            2 => listed[at].kind = choices.number::<u8>() % 7,
            3 => listed[at].changed = choices.number(),
            _ => {
                let record = Listed {
                    path: path(choices),
                    kind: 1 + choices.number::<u8>() % 2,
                    ..listed[at].clone()
                };
                files.push((record.path.clone(), text(choices).into_bytes()));
                let at = choices.below(listed.len() + 1);
                listed.insert(at, record);
            }
        }
        if listed.is_empty() {
            break;
        }
    }
    files
}

fn list(choices: &mut Choices<'_>, listed: &[Listed]) -> Conversation {
    let mut draft = greeted(choices);
    draft.send(mostly(choices, Reply::Started { pid: 1 }));
    let bytes = listing(listed, !choices.chance(3));
    send_data(choices, &mut draft, &bytes);
    finish(choices, draft)
}

fn fetch(choices: &mut Choices<'_>, files: &[(Vec<u8>, Vec<u8>)]) -> Conversation {
    let mut draft = greeted(choices);
    draft.send(mostly(choices, Reply::Started { pid: 1 }));
    draft.actions.push(Action::AwaitInput);
    let mut items = vec![Item::Directory(Vec::new())];
    for (path, content) in files {
        if !choices.chance(5) {
            put_path(&mut items, path, |name| Item::File(name, content.clone()));
        }
    }
    for _ in 0..choices.below(3) {
        let name = name(choices);
        items.push(match choices.below(3) {
            0 => Item::Link(name, target(choices)),
            1 => Item::BrokenFile(name, b"FORGED\n".to_vec()),
            _ => Item::File(name, b"FORGED\n".to_vec()),
        });
    }
    items.extend([Item::Leave, Item::End]);
    let bytes = stream(&items);
    send_data(choices, &mut draft, &bytes);
    finish(choices, draft)
}

/// Ends a conversation, mostly well: a later one needs its result.
fn finish(choices: &mut Choices<'_>, mut draft: Draft) -> Conversation {
    if choices.chance(15) {
        end(choices, &mut draft);
        return draft.finish(choices, false);
    }
    draft.send(reply(&Reply::Exited { status: banger_proto::ExitStatus::Code(0) }));
    Conversation(draft.actions)
}

/// Adds the item at `path`, and the directories above it.
fn put_path(items: &mut Vec<Item>, path: &[u8], item: impl FnOnce(Vec<u8>) -> Item) {
    let mut names: Vec<_> = path.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect();
    let Some(last) = names.pop() else { return };
    let depth = names.len();
    items.extend(names.into_iter().map(Item::Directory));
    items.push(item(last));
    items.extend((0..depth).map(|_| Item::Leave));
}

/// What `git upload-pack` says in the guest: refs, and a pack.
fn upload_pack(choices: &mut Choices<'_>, workspace: &Workspace) -> Conversation {
    let mut draft = greeted(choices);
    draft.send(mostly(choices, Reply::Started { pid: 1 }));
    let (id, pack) = &workspace.commit;
    let mut refs = Vec::new();
    for number in 0..=choices.below(3) {
        let name = *choices.pick(&REFS);
        let capabilities = if number == 0 { "\0ofs-delta" } else { "" };
        refs.extend(packet(format!("{id} {name}{capabilities}\n").as_bytes()));
    }
    refs.extend(b"0000");
    let mut pack = pack.clone();
    if choices.chance(20) {
        let at = choices.below(pack.len());
        pack[at] = choices.number();
    }
    draft.send(frame(&Frame::Data(Stream::Stdout, refs.into())));
    draft.actions.push(Action::AwaitBytes(b"done\n"));
    let data = [packet(b"NAK\n"), pack].concat();
    draft.send(frame(&Frame::Data(Stream::Stdout, data.into())));
    draft.send(reply(&Reply::Exited { status: exit_status(choices) }));
    Conversation(draft.actions)
}

/// Encodes a line of git's protocol.
fn packet(line: &[u8]) -> Vec<u8> {
    [format!("{:04x}", line.len() + 4).as_bytes(), line].concat()
}
