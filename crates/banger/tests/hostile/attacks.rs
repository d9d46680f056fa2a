//! Known attacks, each by the name of the promise that it tried to break.

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use banger_hostile::{
    Action, Case, Client, Command, Conversation, ExportTo, Harness, Item, Listed, Step, frame, greeting,
    listing, reply, stream,
};
use banger_proto::{ExitStatus, FailureKind, Frame, Listener, Reply, Stream, Transport};
use libtest_mimic::{Failed, Trial};
use rustix::process::Signal;

/// Much more than a guest has announced, in bytes.
const TOO_MUCH: u64 = 256 << 20;

/// More than the listing of the largest repositories, and the memory for an accepted listing, in bytes.
const HUGE_LISTING: u64 = 1 << 30;
const MAX_LISTING_MEMORY: usize = 512 << 20;

/// Memory for a file that has grown since it was listed, in bytes: at most 64 MiB, in a buffer that doubles.
const MAX_GROWN_MEMORY: usize = 128 << 20;

/// Memory for a list of the guest's git, in bytes: at most 64 MiB, in a buffer that doubles.
const MAX_LIST_OF_GIT_MEMORY: usize = 192 << 20;

type Test = fn(&Attacker) -> Result<(), Failed>;

/// Attacks with the worker, in one sandbox.
static ON_WORKER: Attacker = Attacker { client: || Client::Worker, harness: Mutex::new(None) };

/// The same with the built program.
static ON_PROGRAM: Attacker =
    Attacker { client: || Client::Program(env!("CARGO_BIN_EXE_banger").into()), harness: Mutex::new(None) };

/// A guest, and the client that it attacks.
pub(crate) struct Attacker {
    client: fn() -> Client,
    harness: Mutex<Option<Harness>>,
}

pub(crate) fn trials() -> Vec<Trial> {
    #[rustfmt::skip]
    let attacks: [(&str, Test); 18] = [
        ("a_copy_cannot_choose_its_host_name", a_copy_cannot_choose_its_host_name),
        ("a_copy_cannot_add_to_another_directory", a_copy_cannot_add_to_another_directory),
        ("a_copied_link_is_not_followed_by_the_next_copy", a_copied_link_is_not_followed),
        ("a_link_in_a_copy_is_not_followed_within_it", a_link_in_a_copy_is_not_followed_within_it),
        ("a_file_name_cannot_control_the_terminal", a_file_name_cannot_control_the_terminal),
        ("a_patch_cannot_control_the_terminal", a_patch_cannot_control_the_terminal),
        ("a_failure_cannot_forge_a_hint", a_failure_cannot_forge_a_hint),
        ("json_cannot_control_the_terminal", json_cannot_control_the_terminal),
        ("a_console_cannot_control_the_terminal", a_console_cannot_control_the_terminal),
        ("a_pull_changes_only_its_own_refs", a_pull_changes_only_its_own_refs),
        ("a_signal_ends_a_pull_whose_git_waits", a_signal_ends_a_pull_whose_git_waits),
        ("a_listing_cannot_fill_memory", a_listing_cannot_fill_memory),
        ("ignore_files_cannot_fill_memory", ignore_files_cannot_fill_memory),
        ("lists_of_git_cannot_fill_memory", lists_of_git_cannot_fill_memory),
        ("a_file_that_was_not_requested_is_not_stored", a_file_that_was_not_requested),
        ("endless_output_is_not_kept", endless_output_is_not_kept),
        ("a_silent_guest_is_given_up", a_silent_guest_is_given_up),
        ("a_signal_ends_every_command", a_signal_ends_every_command),
    ];
    let trial = |group: &str, attacker: &'static Attacker, (name, test): (&str, Test)| {
        Trial::test(format!("{group}::{name}"), move || test(attacker))
    };
    // The first need no clock, and measure no memory.
    let on_program = attacks.iter().take(11).map(|attack| trial("program", &ON_PROGRAM, *attack));
    attacks.iter().map(|attack| trial("attacks", &ON_WORKER, *attack)).chain(on_program).collect()
}

impl Attacker {
    fn with_harness<T>(&self, work: impl FnOnce(&mut Harness) -> T) -> T {
        let mut harness = self.harness.lock().unwrap_or_else(PoisonError::into_inner);
        work(harness.get_or_insert_with(|| Harness::patient((self.client)())))
    }

    /// Runs a case; fails as [`check_and`](Self::check_and) does.
    pub(crate) fn check(&self, steps: Vec<Step>) -> Result<(), Failed> {
        self.check_with_memory(steps, None)
    }

    fn check_with_memory(&self, steps: Vec<Step>, limit: Option<usize>) -> Result<(), Failed> {
        self.check_and(steps, limit, |_| ())
    }

    /// Runs a case, and returns what `then` returns of the harness; fails with every broken promise, and if the client
    /// did not get to the attack.
    fn check_and<T>(
        &self,
        steps: Vec<Step>,
        limit: Option<usize>,
        then: impl FnOnce(&Harness) -> T,
    ) -> Result<T, Failed> {
        self.with_harness(|harness| {
            harness.set_max_memory(limit);
            let violations = harness.run_case(&Case { steps });
            let unreached = harness.unreached().map(|problem| format!("the attack was not tried: {problem}"));
            let problems: Vec<_> = violations.iter().map(ToString::to_string).chain(unreached).collect();
            if problems.is_empty() { Ok(then(harness)) } else { Err(problems.join("\n").into()) }
        })
    }

    fn workspace_listing(&self) -> Vec<Listed> {
        self.with_harness(|harness| harness.workspace().listed.clone())
    }
}

/// A conversation in which the agent accepts the request, which contains the words `request`, and then does `actions`.
fn started(request: &'static str, actions: Vec<Action>) -> Conversation {
    let started = Action::Send(reply(&Reply::Started { pid: 1 }));
    let opening = vec![Action::Send(greeting("1")), Action::AwaitRequest(request), started];
    Conversation(opening.into_iter().chain(actions).collect())
}

/// A conversation in which the agent replies once.
fn answered(request: &'static str, answer: &Reply) -> Conversation {
    Conversation(vec![
        Action::Send(greeting("1")),
        Action::AwaitRequest(request),
        Action::Send(reply(answer)),
    ])
}

/// A conversation in which the agent sends `data` and exits.
fn sent(request: &'static str, data: Vec<u8>) -> Conversation {
    started(request, vec![Action::Send(data_frame(data)), exited()])
}

/// A conversation in which the agent receives all input, sends `data` and exits.
fn accepted(request: &'static str, data: Vec<u8>) -> Conversation {
    started(request, vec![Action::AwaitInput, Action::Send(data_frame(data)), exited()])
}

fn data_frame(data: Vec<u8>) -> Vec<u8> {
    frame(&Frame::Data(Stream::Stdout, data.into()))
}

fn exited() -> Action {
    Action::Send(reply(&Reply::Exited { status: ExitStatus::Code(0) }))
}

fn file(name: &str) -> Item {
    Item::File(name.into(), b"FORGED\n".to_vec())
}

fn copy(source: &'static str, target: &'static str, items: &[Item]) -> Step {
    Step::new(Command::CopyOut { source, target }, vec![sent("Copy", stream(items))])
}

fn a_copy_cannot_choose_its_host_name(to: &Attacker) -> Result<(), Failed> {
    to.check(vec![copy("report.txt", ".", &[file(".bashrc"), Item::End])])?;
    to.check(vec![copy("report.txt", "in", &[file("notes"), Item::End])])?;
    to.check(vec![copy("report.txt", ".", &[Item::Link(".bashrc".into(), "/dev/null".into()), Item::End])])
}

fn a_copy_cannot_add_to_another_directory(to: &Attacker) -> Result<(), Failed> {
    let items = [Item::Directory(".ssh".into()), file("authorized_keys"), Item::Leave, Item::End];
    to.check(vec![copy("report.txt", ".", &items)])?;
    to.check(vec![copy("dir", ".", &items)])
}

fn a_copied_link_is_not_followed(to: &Attacker) -> Result<(), Failed> {
    let link = |target: &str| copy("notes", "in", &[Item::Link("notes".into(), target.into()), Item::End]);
    to.check(vec![link("../.profile"), copy("notes", "in/notes", &[file("notes"), Item::End])])?;
    to.check(vec![link("../.ssh"), copy("report.txt", "in/notes", &[file("report.txt"), Item::End])])?;
    let directory = [Item::Directory("notes".into()), file("authorized_keys"), Item::Leave, Item::End];
    to.check(vec![link("../.ssh"), copy("notes", "in", &directory)])
}

fn a_link_in_a_copy_is_not_followed_within_it(to: &Attacker) -> Result<(), Failed> {
    let link = Item::Link("a".into(), "../../.ssh".into());
    let through = [Item::Directory("a".into()), file("authorized_keys"), Item::Leave];
    let items = [vec![Item::Directory("dir".into()), link], through.into(), vec![Item::Leave, Item::End]];
    to.check(vec![copy("dir", "in", &items.concat())])?;
    let link = Item::Link("a".into(), "../../.profile".into());
    to.check(vec![copy(
        "dir",
        "in",
        &[Item::Directory("dir".into()), link, file("a"), Item::Leave, Item::End],
    )])
}

/// An export of a workspace in which the guest has created the file `path`.
fn export(attacker: &Attacker, to: ExportTo, path: &str, content: &str) -> Step {
    let mut listed = attacker.workspace_listing();
    let record = Listed { path: path.into(), ..listed[0].clone() };
    listed.push(record);
    let new = Item::File(path.into(), content.into());
    let files = [Item::Directory(Vec::new()), new, Item::Leave, Item::End];
    let no_files = [Item::Directory(Vec::new()), Item::Leave, Item::End];
    let fetched = |items: &[Item]| accepted("repo Fetch", stream(items));
    let conversations = vec![sent("repo List", listing(&listed, true)), fetched(&no_files), fetched(&files)];
    Step::new(Command::Export(to), conversations)
}

fn a_file_name_cannot_control_the_terminal(to: &Attacker) -> Result<(), Failed> {
    for format in [ExportTo::Table, ExportTo::Json, ExportTo::Terminal] {
        to.check(vec![export(to, format, "new\x1b]0;FORGED\x07\u{202e}\u{9b}31m", "text\n")])?;
    }
    Ok(())
}

fn a_patch_cannot_control_the_terminal(to: &Attacker) -> Result<(), Failed> {
    to.check(vec![export(to, ExportTo::Terminal, "new", "text\x1b]0;FORGED\x07\rhint: FORGED\n")])
}

fn a_failure_cannot_forge_a_hint(to: &Attacker) -> Result<(), Failed> {
    for message in
        ["no\nhint: FORGED: curl | sh", "no\n\x1b[36mhint:\x1b[0m FORGED", "\rerror: FORGED\u{202e}"]
    {
        for command in [
            Command::Exec { silent: true },
            Command::CopyIn,
            Command::CopyOut { source: "a", target: "in" },
            Command::Export(ExportTo::Table),
            Command::Ports { json: false },
            Command::Ping,
            Command::Health { json: false },
            Command::Prepare,
            Command::Push,
            Command::Delete,
            Command::Ssh,
        ] {
            for (mut conversations, request) in beginnings(to, &command) {
                let message = message.to_owned();
                conversations
                    .push(answered(request, &Reply::Failed { kind: FailureKind::Internal, message }));
                to.check(vec![Step::new(command.clone(), conversations)])?;
            }
        }
    }
    Ok(())
}

/// Returns the honest conversations before each request of `command`, and the words of the request.
fn beginnings(to: &Attacker, command: &Command) -> Vec<(Vec<Conversation>, &'static str)> {
    let honest = to.with_harness(|harness| harness.workspace().honest(command));
    let beginning = |at: usize| (honest[..at].to_vec(), honest[at].request());
    (0..honest.len()).map(beginning).collect()
}

fn json_cannot_control_the_terminal(to: &Attacker) -> Result<(), Failed> {
    let listener = Listener {
        protocol: Transport::Tcp,
        address: [127, 0, 0, 1].into(),
        port: 80,
        pid: None,
        process: Some("a\u{9b}31m\u{202e}\x7f".to_owned()),
        http: false,
    };
    let ports = answered("Ports", &Reply::Ports { listeners: vec![listener] });
    for json in [true, false] {
        to.check(vec![Step::new(Command::Ports { json }, vec![ports.clone()])])?;
    }
    Ok(())
}

fn a_console_cannot_control_the_terminal(to: &Attacker) -> Result<(), Failed> {
    let words = "panic\x1b[2J\u{9b}31m\u{202e}";
    for command in [Command::Show { json: true }, Command::Show { json: false }, Command::List] {
        let step = Step { last_error: Some(words.to_owned()), ..Step::new(command, Vec::new()) };
        to.check(vec![step])?;
    }
    let log = Conversation(vec![Action::Send(words.into())]);
    to.check(vec![Step::new(Command::Logs, vec![log])])?;
    // The connection breaks, and the daemon's answer says why.
    let step = Step::new(Command::Exec { silent: true }, vec![started("true", Vec::new())]);
    to.check(vec![Step { last_error: Some(format!("{words}\nhint: FORGED")), ..step }])
}

fn a_listing_cannot_fill_memory(to: &Attacker) -> Result<(), Failed> {
    let name = "d/".repeat(120) + &"n".repeat(200);
    let record = Listed { path: name.into_bytes(), ..to.workspace_listing()[0].clone() };
    let records = vec![record; 2000];
    let magic = Action::Send(data_frame(listing(&[], false)));
    let endless = Action::SendRepeatedly(data_frame(listing(&records, false)[4..].to_vec()), HUGE_LISTING);
    let list = started("repo List", vec![magic.clone(), endless, exited()]);
    for command in [Command::Export(ExportTo::Table), Command::Delete] {
        to.check_with_memory(vec![Step::new(command, vec![list.clone()])], Some(MAX_LISTING_MEMORY))?;
    }
    // Only refs and logs of a git directory are kept.
    let record = Listed { path: [b"refs/", &*records[0].path].concat(), ..records[0].clone() };
    let records = listing(&vec![record; 2000], false);
    let endless = Action::SendRepeatedly(data_frame(records[4..].to_vec()), HUGE_LISTING);
    let steps = pull(to, ".git List", vec![magic, endless, exited()], false)?;
    to.check_with_memory(steps, Some(MAX_LISTING_MEMORY))
}

fn ignore_files_cannot_fill_memory(to: &Attacker) -> Result<(), Failed> {
    let head = [stream(&[Item::Directory(Vec::new())]), entry(".gitignore")].concat();
    let endless = endless_file(head);
    let list = sent("repo List", listing(&to.workspace_listing(), true));
    let step = Step::new(Command::Export(ExportTo::Table), vec![list, endless]);
    to.check_with_memory(vec![step], Some(MAX_GROWN_MEMORY))
}

fn lists_of_git_cannot_fill_memory(to: &Attacker) -> Result<(), Failed> {
    let id = to.with_harness(|harness| harness.workspace().commit.0.clone());
    let refs = format!("{id} refs/heads/{}\n", "n".repeat(200)).repeat(200);
    let ids = format!("{id}\n").repeat(1000);
    for (request, lines) in [("for-each-ref", refs), ("rev-list", ids.clone()), ("cat-file", ids)] {
        let endless = Action::SendRepeatedly(data_frame(lines.into_bytes()), TOO_MUCH);
        let steps = pull(to, request, vec![Action::AwaitInput, endless, exited()], false)?;
        to.check_with_memory(steps, Some(MAX_LIST_OF_GIT_MEMORY))?;
    }
    Ok(())
}

fn a_file_that_was_not_requested(to: &Attacker) -> Result<(), Failed> {
    let mut listed = to.workspace_listing();
    listed.push(Listed { path: b"new".to_vec(), size: 7, ..listed[0].clone() });
    let no_files = stream(&[Item::Directory(Vec::new()), Item::Leave, Item::End]);
    for name in ["new", "other"] {
        let head = [stream(&[Item::Directory(Vec::new())]), entry(name)].concat();
        let rules = accepted("repo Fetch", no_files.clone());
        let conversations = vec![sent("repo List", listing(&listed, true)), rules, endless_file(head)];
        to.check(vec![Step::new(Command::Export(ExportTo::Table), conversations)])?;
    }
    Ok(())
}

/// A conversation in which the agent sends a file that begins with `head` and does not end.
fn endless_file(head: Vec<u8>) -> Conversation {
    let endless = Action::SendRepeatedly(data_frame(part(32 << 10)), TOO_MUCH);
    started("repo Fetch", vec![Action::AwaitInput, Action::Send(data_frame(head)), endless, exited()])
}

/// The start of a file in a stream, without any of its content.
fn entry(name: &str) -> Vec<u8> {
    let file = stream(&[Item::File(name.into(), Vec::new())]);
    file[4..file.len() - 4].to_vec()
}

/// A part of a file's content.
fn part(length: u32) -> Vec<u8> {
    [&length.to_be_bytes()[..], &vec![b'x'; length as usize]].concat()
}

fn endless_output_is_not_kept(to: &Attacker) -> Result<(), Failed> {
    let lines = frame(&Frame::Data(Stream::Stderr, "words\n".repeat(1000).into()));
    let line = frame(&Frame::Data(Stream::Stderr, vec![b'x'; 60_000].into()));
    let acknowledged = reply(&Reply::Acknowledged { bytes: u32::MAX });
    for (bytes, total) in [(lines, 16 << 20), (line, 16 << 20), (acknowledged, 1 << 20)] {
        let endless = started("", vec![Action::SendRepeatedly(bytes, total), exited()]);
        for command in [
            Command::CopyOut { source: "a", target: "in" },
            Command::CopyIn,
            Command::Export(ExportTo::Table),
            Command::Exec { silent: false },
        ] {
            to.check(vec![Step::new(command, vec![endless.clone()])])?;
        }
    }
    let data = started("", vec![Action::SendRepeatedly(data_frame(vec![b'x'; 1 << 20]), 32 << 20), exited()]);
    to.check(vec![Step::new(Command::Exec { silent: false }, vec![data.clone()])])?;
    to.check(vec![Step::new(Command::Print { source: "a" }, vec![data])])
}

/// Returns conversations of `command`, each with `silence` at another time. Those of programs that the client starts
/// are only included `with_programs`: their clocks cannot be advanced.
fn interrupted(
    to: &Attacker,
    command: &Command,
    silence: &Action,
    with_programs: bool,
) -> Vec<Vec<Conversation>> {
    let silent = |mut conversation: Conversation| {
        conversation.0.push(silence.clone());
        vec![conversation]
    };
    let greeted = Conversation(vec![Action::Send(greeting("1")), Action::AwaitRequest("")]);
    let mut all = vec![
        silent(Conversation::default()),
        silent(greeted),
        // In one packet: a client to which the first part is an error disconnects before the second.
        silent(Conversation(vec![
            Action::Send(greeting("1")),
            Action::AwaitRequest(""),
            Action::Send([reply(&Reply::Started { pid: 1 }), data_frame(stream(&[]))].concat()),
        ])),
    ];
    let is_program =
        |request: &str| ["for-each-ref", "rev-list", "cat-file", "upload-pack"].contains(&request);
    for (mut conversations, request) in beginnings(to, command) {
        if with_programs || !is_program(request) {
            conversations.extend(silent(started(request, Vec::new())));
            all.push(conversations);
        }
    }
    all
}

fn commands() -> Vec<Command> {
    vec![
        Command::CopyOut { source: "a", target: "in" },
        Command::Print { source: "a" },
        Command::CopyIn,
        Command::Export(ExportTo::Table),
        Command::Pull,
        Command::Delete,
        Command::Prepare,
        Command::Push,
        Command::Ports { json: false },
        Command::Ping,
        Command::Health { json: false },
    ]
}

fn a_silent_guest_is_given_up(to: &Attacker) -> Result<(), Failed> {
    for command in commands() {
        for conversations in interrupted(to, &command, &Action::StaySilent, false) {
            to.check(vec![Step::new(command.clone(), conversations)])?;
        }
    }
    Ok(())
}

fn a_signal_ends_every_command(to: &Attacker) -> Result<(), Failed> {
    let mut problems = Vec::new();
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        for command in commands().into_iter().chain([Command::Exec { silent: false }, Command::Sftp]) {
            for conversations in interrupted(to, &command, &Action::StaySilentUntil(signal), true) {
                let shown = format!("{signal:?} in {:?}", conversations.last().map(|last| &last.0));
                if let Err(failed) = to.check(vec![Step::new(command.clone(), conversations)]) {
                    problems.push(format!("{shown}: {}", failed.message().unwrap_or_default()));
                }
            }
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n").into()) }
}

/// Returns a pull in which the agent does `actions` after the request with the words `request`. If the pull `goes_on`,
/// the agent answers the other requests honestly.
fn pull(
    to: &Attacker,
    request: &'static str,
    actions: Vec<Action>,
    goes_on: bool,
) -> Result<Vec<Step>, Failed> {
    let mut conversations = to.with_harness(|harness| harness.workspace().honest(&Command::Pull));
    let at = conversations.iter().position(|conversation| conversation.request() == request);
    let at = at.ok_or_else(|| format!("a pull has no request {request}"))?;
    conversations[at] = started(request, actions);
    conversations.truncate(if goes_on { conversations.len() } else { at + 1 });
    Ok(vec![Step::new(Command::Pull, conversations)])
}

fn a_signal_ends_a_pull_whose_git_waits(to: &Attacker) -> Result<(), Failed> {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let greeting = [packet(b"version 2\n"), packet(b"fetch\n"), b"0000".to_vec()].concat();
        let actions = vec![
            Action::Send(data_frame(greeting)),
            Action::AwaitBytes(b"\n0000"),
            Action::StaySilentUntil(signal),
        ];
        to.check(pull(to, "upload-pack", actions, false)?)?;
    }
    Ok(())
}

fn a_pull_changes_only_its_own_refs(to: &Attacker) -> Result<(), Failed> {
    let (head, (id, pack)) = to.with_harness(|harness| {
        let workspace = harness.workspace();
        (workspace.head.clone(), workspace.commit.clone())
    });
    for name in ["refs/heads/main", "refs/tags/v1", "refs/heads/../../heads/main", "refs/heads/main.lock"] {
        let listed = format!("{head} refs/heads/main\n{id} {name}\n").into_bytes();
        let listed = vec![Action::AwaitInput, Action::Send(data_frame(listed)), exited()];
        check_pull(to, pull(to, "for-each-ref", listed, true)?, true)?;
    }
    for (name, is_valid) in
        [("refs/heads/main", true), ("refs/tags/v1", true), ("HEAD", true), ("refs/heads/../../main", false)]
    {
        let advertised = [packet(format!("{id} {name}\0ofs-delta\n").as_bytes()), b"0000".to_vec()].concat();
        let pack = [packet(b"NAK\n"), pack.clone()].concat();
        let answer = vec![Action::AwaitBytes(b"done\n"), Action::Send(data_frame(pack)), exited()];
        let answer = if is_valid { answer } else { vec![exited()] };
        let actions = [vec![Action::Send(data_frame(advertised))], answer].concat();
        check_pull(to, pull(to, "upload-pack", actions, is_valid)?, is_valid)?;
    }
    Ok(())
}

/// Runs a pull, and checks whether it creates refs.
fn check_pull(to: &Attacker, steps: Vec<Step>, creates_refs: bool) -> Result<(), Failed> {
    let changed = to.check_and(steps, None, |harness| harness.changed().to_vec())?;
    let is_ref = |path: &PathBuf| path.starts_with("home/repo/.git/refs/banger/box");
    if changed.iter().any(is_ref) == creates_refs { Ok(()) } else { Err(format!("{changed:?}").into()) }
}

/// A line of git's protocol.
fn packet(line: &[u8]) -> Vec<u8> {
    [format!("{:04x}", line.len() + 4).as_bytes(), line].concat()
}
