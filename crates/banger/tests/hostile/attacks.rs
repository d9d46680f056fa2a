//! Known attacks, each by the name of the promise that it tried to break.

use std::sync::{Mutex, PoisonError};

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
    let attacks: [(&str, Test); 17] = [
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
        ("a_listing_cannot_fill_memory", a_listing_cannot_fill_memory),
        ("ignore_files_cannot_fill_memory", ignore_files_cannot_fill_memory),
        ("a_file_that_was_not_requested_is_not_stored", a_file_that_was_not_requested),
        ("endless_output_is_not_kept", endless_output_is_not_kept),
        ("a_silent_guest_is_given_up", a_silent_guest_is_given_up),
        ("a_signal_ends_every_command", a_signal_ends_every_command),
        ("a_signal_ends_a_pull_whose_git_waits", a_signal_ends_a_pull_whose_git_waits),
    ];
    let trial = |group: &str, attacker: &'static Attacker, (name, test): (&str, Test)| {
        Trial::test(format!("{group}::{name}"), move || test(attacker))
    };
    // The first need no clock, and measure no memory.
    let on_program = attacks.iter().take(10).map(|attack| trial("program", &ON_PROGRAM, *attack));
    attacks.iter().map(|attack| trial("attacks", &ON_WORKER, *attack)).chain(on_program).collect()
}

impl Attacker {
    fn with_harness<T>(&self, work: impl FnOnce(&mut Harness) -> T) -> T {
        let mut harness = self.harness.lock().unwrap_or_else(PoisonError::into_inner);
        work(harness.get_or_insert_with(|| Harness::new((self.client)())))
    }

    /// Runs a case; fails with every broken promise.
    pub(crate) fn check(&self, steps: Vec<Step>) -> Result<(), Failed> {
        self.check_with_memory(steps, None)
    }

    fn check_with_memory(&self, steps: Vec<Step>, limit: Option<usize>) -> Result<(), Failed> {
        self.with_harness(|harness| {
            harness.set_max_memory(limit);
            check(harness, steps)
        })
    }

    fn workspace_listing(&self) -> Vec<Listed> {
        self.with_harness(|harness| harness.workspace().listed.clone())
    }
}

fn check(harness: &mut Harness, steps: Vec<Step>) -> Result<(), Failed> {
    let violations = harness.run_case(&Case { steps });
    if violations.is_empty() {
        return Ok(());
    }
    let lines: Vec<_> = violations.iter().map(ToString::to_string).collect();
    Err(lines.join("\n").into())
}

/// A conversation in which the agent accepts the request and then does `actions`.
fn started(actions: Vec<Action>) -> Conversation {
    let started = Action::Send(reply(&Reply::Started { pid: 1 }));
    let opening = vec![Action::Send(greeting("1")), Action::AwaitRequest, started];
    Conversation(opening.into_iter().chain(actions).collect())
}

/// A conversation in which the agent replies once.
fn answered(answer: &Reply) -> Conversation {
    Conversation(vec![Action::Send(greeting("1")), Action::AwaitRequest, Action::Send(reply(answer))])
}

/// A conversation in which the agent sends `data` and exits.
fn sent(data: Vec<u8>) -> Conversation {
    started(vec![Action::Send(data_frame(data)), exited()])
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
    Step::new(Command::CopyOut { source, target }, vec![sent(stream(items))])
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
    let accepted =
        |items: &[Item]| started(vec![Action::AwaitInput, Action::Send(data_frame(stream(items))), exited()]);
    let no_files = [Item::Directory(Vec::new()), Item::Leave, Item::End];
    let conversations = vec![sent(listing(&listed, true)), accepted(&no_files), accepted(&files)];
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
        let failed = answered(&Reply::Failed { kind: FailureKind::Internal, message: message.to_owned() });
        for command in [
            Command::Exec { silent: true },
            Command::CopyIn,
            Command::CopyOut { source: "a", target: "in" },
            Command::Export(ExportTo::Table),
            Command::Ports { json: false },
            Command::Ping,
            Command::Health { json: false },
            Command::Delete,
        ] {
            to.check(vec![Step::new(command, vec![failed.clone(), failed.clone()])])?;
        }
        let ssh = vec![failed.clone(), failed];
        to.check(vec![Step::new(Command::Ssh, ssh)])?;
    }
    Ok(())
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
    let ports = answered(&Reply::Ports { listeners: vec![listener] });
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
    let step = Step::new(Command::Exec { silent: true }, vec![started(Vec::new())]);
    to.check(vec![Step { last_error: Some(format!("{words}\nhint: FORGED")), ..step }])
}

fn a_listing_cannot_fill_memory(to: &Attacker) -> Result<(), Failed> {
    let name = "d/".repeat(120) + &"n".repeat(200);
    let record = Listed { path: name.into_bytes(), ..to.workspace_listing()[0].clone() };
    let records = vec![record; 2000];
    let magic = Action::Send(data_frame(listing(&[], false)));
    let endless = Action::SendRepeatedly(data_frame(listing(&records, false)[4..].to_vec()), HUGE_LISTING);
    let list = started(vec![magic, endless, exited()]);
    for command in [Command::Export(ExportTo::Table), Command::Delete] {
        to.check_with_memory(vec![Step::new(command, vec![list.clone()])], Some(MAX_LISTING_MEMORY))?;
    }
    Ok(())
}

fn ignore_files_cannot_fill_memory(to: &Attacker) -> Result<(), Failed> {
    let head = [stream(&[Item::Directory(Vec::new())]), entry(".gitignore")].concat();
    let endless = started(vec![
        Action::AwaitInput,
        Action::Send(data_frame(head)),
        Action::SendRepeatedly(data_frame(part(32 << 10)), TOO_MUCH),
        exited(),
    ]);
    let list = sent(listing(&to.workspace_listing(), true));
    let step = Step::new(Command::Export(ExportTo::Table), vec![list, endless]);
    to.check_with_memory(vec![step], Some(MAX_GROWN_MEMORY))
}

fn a_file_that_was_not_requested(to: &Attacker) -> Result<(), Failed> {
    let mut listed = to.workspace_listing();
    listed.push(Listed { path: b"new".to_vec(), size: 7, ..listed[0].clone() });
    let no_files = stream(&[Item::Directory(Vec::new()), Item::Leave, Item::End]);
    for name in ["new", "other"] {
        let head = [stream(&[Item::Directory(Vec::new())]), entry(name)].concat();
        let endless = started(vec![
            Action::AwaitInput,
            Action::Send(data_frame(head)),
            Action::SendRepeatedly(data_frame(part(32 << 10)), TOO_MUCH),
            exited(),
        ]);
        let rules = started(vec![Action::AwaitInput, Action::Send(data_frame(no_files.clone())), exited()]);
        let conversations = vec![sent(listing(&listed, true)), rules, endless];
        to.check(vec![Step::new(Command::Export(ExportTo::Table), conversations)])?;
    }
    Ok(())
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
        let endless = started(vec![Action::SendRepeatedly(bytes, total), exited()]);
        for command in [
            Command::CopyOut { source: "a", target: "in" },
            Command::CopyIn,
            Command::Export(ExportTo::Table),
            Command::Exec { silent: false },
        ] {
            to.check(vec![Step::new(command, vec![endless.clone()])])?;
        }
    }
    let data = started(vec![Action::SendRepeatedly(data_frame(vec![b'x'; 1 << 20]), 32 << 20), exited()]);
    to.check(vec![Step::new(Command::Exec { silent: false }, vec![data.clone()])])?;
    to.check(vec![Step::new(Command::Print { source: "a" }, vec![data])])
}

/// Commands, each with the conversation after which the guest's silence begins.
fn interrupted(to: &Attacker, silence: &Action) -> Vec<Vec<Conversation>> {
    let silent = |mut conversation: Conversation| {
        conversation.0.push(silence.clone());
        conversation
    };
    let greeted = Conversation(vec![Action::Send(greeting("1")), Action::AwaitRequest]);
    vec![
        vec![silent(Conversation::default())],
        vec![silent(greeted)],
        vec![silent(started(Vec::new()))],
        vec![silent(started(vec![Action::Send(data_frame(stream(&[])))]))],
        // The second connection of a command that makes several.
        vec![sent(listing(&to.workspace_listing(), true)), silent(started(Vec::new()))],
    ]
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
    for conversations in interrupted(to, &Action::StaySilent) {
        for command in commands() {
            to.check(vec![Step::new(command, conversations.clone())])?;
        }
    }
    Ok(())
}

fn a_signal_ends_every_command(to: &Attacker) -> Result<(), Failed> {
    let mut problems = Vec::new();
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        for conversations in interrupted(to, &Action::StaySilentUntil(signal)) {
            for command in commands().into_iter().chain([Command::Exec { silent: false }, Command::Sftp]) {
                let shown = format!("{signal:?} in {:?}", conversations.last().map(|last| &last.0));
                if let Err(failed) = to.check(vec![Step::new(command, conversations.clone())]) {
                    problems.push(format!("{shown}: {}", failed.message().unwrap_or_default()));
                }
            }
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n").into()) }
}

fn a_signal_ends_a_pull_whose_git_waits(to: &Attacker) -> Result<(), Failed> {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut conversations = before_git(to);
        conversations.push(started(vec![Action::StaySilentUntil(signal)]));
        to.check(vec![Step::new(Command::Pull, conversations)])?;
    }
    Ok(())
}

/// Conversations that make a pull start git, because the guest has a branch of its own.
fn before_git(to: &Attacker) -> Vec<Conversation> {
    let mut listed = to.workspace_listing();
    listed.push(Listed { path: b".git/refs/heads/work".to_vec(), ..listed[0].clone() });
    let no_files = stream(&[Item::Directory(Vec::new()), Item::Leave, Item::End]);
    let files = started(vec![Action::AwaitInput, Action::Send(data_frame(no_files)), exited()]);
    vec![sent(listing(&listed, true)), files.clone(), files]
}

fn a_pull_changes_only_its_own_refs(to: &Attacker) -> Result<(), Failed> {
    for name in
        ["refs/heads/main", "refs/heads/../../heads/main", "refs/heads/main.lock", "HEAD", "refs/tags/v1"]
    {
        let (id, pack) = to.with_harness(|harness| harness.workspace().commit.clone());
        let refs = [packet(format!("{id} {name}\0ofs-delta\n").as_bytes()), b"0000".to_vec()].concat();
        let pack = [packet(b"NAK\n"), pack].concat();
        let mut conversations = before_git(to);
        conversations.push(started(vec![
            Action::Send(data_frame(refs)),
            Action::AwaitBytes(b"done\n"),
            Action::Send(data_frame(pack)),
            exited(),
        ]));
        to.check(vec![Step::new(Command::Pull, conversations)])?;
    }
    Ok(())
}

/// A line of git's protocol.
fn packet(line: &[u8]) -> Vec<u8> {
    [format!("{:04x}", line.len() + 4).as_bytes(), line].concat()
}
