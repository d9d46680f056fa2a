//! Workspaces: listings, files, and what the guest's git says.

use banger_proto::{ExitStatus, Frame, Reply, Stream};

use super::{
    draft::Draft,
    files::{end, send_data},
    single::{greeted, mostly},
};
use crate::{
    Action, Conversation, Item, Listed, Workspace,
    choices::Choices,
    encode::{frame, listing, reply, stream},
    texts::{name, path, target, text},
    workspace::{SmallFile, placed_at},
};

/// The guest's own refs. git lists only those below `refs/`.
const REFS: [&str; 10] = [
    "refs/heads/work",
    "refs/heads/main",
    "refs/stash",
    "refs/heads/../../main",
    "refs/heads/a b",
    "refs/heads/\x1b[2J",
    "refs/heads/\u{202e}x",
    "refs/tags/v1",
    "refs/banger/box/x",
    "HEAD",
];

/// Names of which the client asks git for the objects: `HEAD`, and those of operations in progress.
const PSEUDO_REFS: usize = 7;

/// Number of a pull's conversations before git fetches objects, if nothing is staged or stashed.
const FETCH: usize = 7;

/// What the guest sends after a request.
enum Answer {
    Listing(Vec<Listed>),
    /// Files by their paths.
    Files(Vec<SmallFile>),
    /// The output of a git command.
    Output(Vec<u8>),
    /// Those of `git upload-pack`, which may advertise these refs.
    Objects(Vec<&'static str>),
    /// The time at which it has placed the files that it receives.
    Time,
}

/// Returns the guest's side of an export.
pub(super) fn export(choices: &mut Choices<'_>, workspace: &Workspace) -> Vec<Conversation> {
    let honest = choices.below(4);
    let mut listed = workspace.listed.clone();
    let changed = change_listing(choices, &mut listed, honest > 0);
    let rules = rules(workspace, &listed);
    conversations(
        choices,
        workspace,
        honest,
        vec![
            ("repo List", Answer::Listing(listed)),
            ("repo Fetch", Answer::Files(rules)),
            ("repo Fetch", Answer::Files(changed)),
        ],
    )
}

/// Returns the guest's side of a pull or a rescue.
pub(super) fn pull(choices: &mut Choices<'_>, workspace: &Workspace) -> Vec<Conversation> {
    let honest = if choices.chance(60) { FETCH + choices.below(3) } else { choices.below(FETCH) };
    let mut listed = workspace.listed.clone();
    let changed = change_listing(choices, &mut listed, honest > 0);
    let (has_own_refs, has_own_index) = (!choices.chance(15), choices.chance(20));
    if has_own_refs {
        listed.push(Listed { path: b".git/refs/heads/work".to_vec(), ..listed[0].clone() });
    }
    let mut rules = rules(workspace, &listed);
    for (_, index) in rules.iter_mut().filter(|(path, _)| has_own_index && path == b".git/index") {
        *index = workspace.staged.0.clone();
    }
    let in_git = |record: &Listed| Some(Listed { path: below_git(&record.path)?, ..record.clone() });
    let mut in_git: Vec<_> = listed.iter().filter_map(in_git).collect();
    if honest < 2 {
        change_listing(choices, &mut in_git, false);
    }
    let state = small_files(workspace, &listed, &[".git/HEAD", ".git/info/exclude"]);
    let state = state.into_iter().filter_map(|(path, content)| Some((below_git(&path)?, content)));
    let mut answers = vec![
        ("repo List", Answer::Listing(listed)),
        (".git List", Answer::Listing(in_git)),
        ("repo Fetch", Answer::Files(rules)),
    ];
    if has_own_refs || has_own_index {
        answers.push((".git Fetch", Answer::Files(state.collect())));
        answers.extend(git_answers(choices, workspace, has_own_index));
    }
    answers.push(("repo Fetch", Answer::Files(changed)));
    conversations(choices, workspace, honest, answers)
}

/// Returns what the guest's git says in a pull: names, and then objects.
fn git_answers(
    choices: &mut Choices<'_>,
    workspace: &Workspace,
    has_own_index: bool,
) -> Vec<(&'static str, Answer)> {
    let refs: Vec<&str> = (0..=choices.below(3)).map(|_| *choices.pick(&REFS)).collect();
    let (head, (work, _)) = (&workspace.head, &workspace.commit);
    let listed = refs.iter().filter(|name| name.starts_with("refs/"));
    let listed: String = listed.map(|name| format!("{work} {name}\n")).collect();
    let output = |text: String| Answer::Output(text.into());
    let mut answers = vec![
        ("for-each-ref", output(format!("{head} refs/heads/main\n{listed}"))),
        ("rev-list", output(format!("{work}\n{head}\n"))),
    ];
    if refs.contains(&"refs/stash") {
        answers.push(("refs/stash", output(format!("{work}\n"))));
    }
    let missing = "NAME missing\n".repeat(PSEUDO_REFS - 1);
    answers.push(("cat-file", output(format!("{head}\n{missing}"))));
    if has_own_index {
        answers.push(("diff-index", Answer::Output(workspace.staged.1.clone())));
    }
    answers.push(("upload-pack", Answer::Objects(refs)));
    answers
}

/// Returns the guest's side of sending all changes, or only commits if `is_push`.
pub(super) fn update(choices: &mut Choices<'_>, workspace: &Workspace, is_push: bool) -> Vec<Conversation> {
    let (mut answers, honest) = (Vec::new(), choices.below(3));
    if !is_push {
        let mut listed = workspace.listed.clone();
        change_listing(choices, &mut listed, honest > 0);
        let mut files = small_files(workspace, &listed, &[".git/HEAD", ".git/index", ".git/refs/heads/main"]);
        let is_as_sent = |path: &[u8]| {
            listed.iter().any(|record| record.path == path && workspace.listed.contains(record))
        };
        files.retain(|(path, _)| !is_as_sent(path));
        answers.push(("repo List", Answer::Listing(listed)));
        if !files.is_empty() {
            answers.push(("repo Fetch", Answer::Files(files)));
        }
    }
    answers.push(("repo Change", Answer::Time));
    conversations(choices, workspace, honest, answers)
}

/// Returns the path below `.git`.
fn below_git(path: &[u8]) -> Option<Vec<u8>> {
    path.strip_prefix(b".git/").map(<[u8]>::to_vec)
}

fn rules(workspace: &Workspace, listed: &[Listed]) -> Vec<SmallFile> {
    small_files(workspace, listed, &[".git/index", ".git/info/exclude", ".gitignore"])
}

/// Returns the files `names`, unless they are missing in `listed`.
fn small_files(workspace: &Workspace, listed: &[Listed], names: &[&str]) -> Vec<SmallFile> {
    let is_listed = |path: &[u8]| listed.iter().any(|record| record.path == path && record.kind == 1);
    let files = workspace.files.iter().filter(|(path, _)| names.iter().any(|name| name.as_bytes() == path));
    files.filter(|(path, _)| is_listed(path)).cloned().collect()
}

/// Changes a listing, so that it is still valid if `is_valid`; returns files for the changed paths.
fn change_listing(choices: &mut Choices<'_>, listed: &mut Vec<Listed>, is_valid: bool) -> Vec<SmallFile> {
    let mut files = Vec::new();
    for number in 0..choices.below(4) {
        let at = choices.below(listed.len());
        if is_valid {
            let (path, content) = (format!("new{number}").into_bytes(), text(choices).into_bytes());
            listed.push(Listed { path: path.clone(), size: content.len() as u64, ..listed[0].clone() });
            files.push((path, content));
            continue;
        }
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

/// Returns a conversation for each of `answers`. The first `honest` are without lies, so that the client asks for more.
fn conversations(
    choices: &mut Choices<'_>,
    workspace: &Workspace,
    honest: usize,
    answers: Vec<(&'static str, Answer)>,
) -> Vec<Conversation> {
    let mut no_choices = Choices::new(&[]);
    let conversation = |(number, (request, answer)): (usize, (_, Answer))| {
        let choices = if number < honest { &mut no_choices } else { &mut *choices };
        conversation(choices, workspace, request, &answer)
    };
    answers.into_iter().enumerate().map(conversation).collect()
}

fn conversation(
    choices: &mut Choices<'_>,
    workspace: &Workspace,
    request: &'static str,
    answer: &Answer,
) -> Conversation {
    let mut draft = greeted(choices, request);
    draft.send(mostly(choices, Reply::Started { pid: 1 }));
    // The agent lists without input, and git's upload-pack answers before its input has ended.
    if !matches!(answer, Answer::Listing(_) | Answer::Objects(_)) {
        draft.actions.push(Action::AwaitInput);
    }
    match answer {
        Answer::Listing(listed) => {
            let bytes = listing(listed, !choices.chance(3));
            send_data(choices, &mut draft, &bytes);
        }
        Answer::Files(files) => {
            let bytes = small_stream(choices, files);
            send_data(choices, &mut draft, &bytes);
        }
        Answer::Time => {
            let time = if choices.chance(30) { choices.bytes(20) } else { placed_at().to_vec() };
            send_data(choices, &mut draft, &time);
        }
        Answer::Output(bytes) => {
            let bytes = output(choices, bytes);
            send_data(choices, &mut draft, &bytes);
        }
        Answer::Objects(refs) => upload_pack(choices, &mut draft, workspace, refs),
    }
    finish(choices, draft)
}

/// Ends a conversation, mostly well: a later one needs its result.
fn finish(choices: &mut Choices<'_>, mut draft: Draft) -> Conversation {
    if choices.chance(15) {
        end(choices, &mut draft);
        return draft.finish(choices, false);
    }
    draft.send(reply(&Reply::Exited { status: ExitStatus::Code(0) }));
    Conversation(draft.actions)
}

fn small_stream(choices: &mut Choices<'_>, files: &[SmallFile]) -> Vec<u8> {
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
    stream(&items)
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

/// Returns `bytes`, or other output of git with lines of the same kind.
fn output(choices: &mut Choices<'_>, bytes: &[u8]) -> Vec<u8> {
    match choices.below(10) {
        0..7 => bytes.to_vec(),
        7 => [bytes, text(choices).as_bytes(), b"\n"].concat(),
        8 => bytes.repeat(choices.below(1000)),
        _ => text(choices).into_bytes(),
    }
}

/// What `git upload-pack` says in the guest, in version 2 of its protocol or the first one: refs, and a pack.
fn upload_pack(choices: &mut Choices<'_>, draft: &mut Draft, workspace: &Workspace, refs: &[&str]) {
    let ((id, pack), head) = (&workspace.commit, &workspace.head);
    let mut pack = pack.clone();
    if choices.chance(20) {
        let at = choices.below(pack.len());
        pack[at] = choices.number();
    }
    let (greeting, asked, answer) = if choices.chance(40) {
        let mut greeting = Vec::new();
        for (number, name) in refs.iter().enumerate() {
            let capabilities = if number == 0 { "\0ofs-delta" } else { "" };
            greeting.extend(packet(format!("{id} {name}{capabilities}\n").as_bytes()));
        }
        (greeting, &b"done\n"[..], [packet(b"NAK\n"), pack].concat())
    } else {
        let greeting = ["version 2\n", "agent=git/2\n", "fetch\n", "object-format=sha1\n"];
        let mut answer = ["acknowledgments\n", &format!("ACK {head}\n"), "ready\n"]
            .map(|line| packet(line.as_bytes()))
            .concat();
        answer.extend([&b"0001"[..], &packet(b"packfile\n")].concat());
        if choices.chance(20) {
            let band = choices.number::<u8>() % 4;
            answer.extend(packet(&[&[band], text(choices).as_bytes()].concat()));
        }
        answer.extend([packet(&[&[1], &pack[..]].concat()), b"0000".to_vec()].concat());
        (greeting.map(|line| packet(line.as_bytes())).concat(), &b"\n0000"[..], answer)
    };
    let error = choices.chance(5).then(|| packet(format!("ERR {}", text(choices)).as_bytes()));
    let greeting = [greeting, b"0000".to_vec(), error.unwrap_or_default()].concat();
    draft.send(frame(&Frame::Data(Stream::Stdout, greeting.into())));
    draft.actions.push(Action::AwaitBytes(asked));
    draft.send(frame(&Frame::Data(Stream::Stdout, answer.into())));
}

/// Encodes a line of git's protocol.
fn packet(line: &[u8]) -> Vec<u8> {
    [format!("{:04x}", line.len() + 4).as_bytes(), line].concat()
}
