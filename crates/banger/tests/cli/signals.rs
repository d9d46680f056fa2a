//! Presses each signal in each phase of each command. A phase is recognised by what the daemon, the guest or a program
//! has seen, or by a line on standard error, and hangs: only the signal can end it.

use std::{fs, net::TcpListener, path::Path};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::{host::Host, operation::stage, programs::SSH_STATUS, run::Running, terminal::Terminal, trial};

/// The signals that end or cancel a command.
const SIGNALS: [Signal; 3] = [Signal::INT, Signal::TERM, Signal::HUP];

/// How a phase is recognised.
#[derive(Debug, Clone, Copy)]
enum At {
    /// The daemon, guest or program reports it, and hangs.
    Phase(&'static str),
    /// The daemon runs an operation of this kind, as the command knows, and hangs.
    Operation(&'static str),
    /// The command prints this on standard error.
    Stderr(&'static str),
    /// The command prints this on standard output.
    Stdout(&'static str),
}

/// A phase of a command that a signal ends.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    /// Makes the host ready, and returns the command's arguments.
    set_up: fn(&mut Host) -> Result<Vec<String>>,
    at: At,
    /// Checks what is left after the command has ended with this on standard error.
    check: Check,
}

/// What is left after a signal.
struct Ended<'a> {
    /// What the command has printed on standard error.
    stderr: &'a str,
}

/// A test for each signal, and its name.
type SignalTest = (&'static str, fn(Signal) -> Result<()>);

/// A test for one signal, and its name.
type SingleTest = (&'static str, fn() -> Result<()>);

type Check = fn(&mut Host, &Ended<'_>) -> Result<()>;

const fn case(
    name: &'static str,
    set_up: fn(&mut Host) -> Result<Vec<String>>,
    at: At,
    check: Check,
) -> Case {
    Case { name, set_up, at, check }
}

/// Every phase that any signal ends with the status 128+n.
#[rustfmt::skip]
const CASES: &[Case] = &[
    // Nothing is begun: banger ends at once.
    case("connecting", |_| words(&["ps"]), At::Phase("GET /v1/vms"), nothing),
    case("starting_the_daemon", |_| words(&["ps"]), At::Phase("start"), nothing),
    case("listing_images", |_| words(&["image", "list"]), At::Phase("GET /v1/images"), nothing),
    case("following_a_log", |_| words(&["vm", "logs", "-f", "box"]), At::Stdout("followed"), nothing),
    case("following_the_daemons_log", |_| words(&["daemon", "logs", "-f"]), At::Stdout("followed"), nothing),
    case("following_events", |_| words(&["events", "-f"]), At::Stdout("followed"), nothing),
    case("doctor", |_| words(&["doctor"]), At::Phase("doctor"), nothing),
    case("ping", |_| words(&["vm", "ping", "box"]), At::Phase("GET /v1/vms/box/tunnel"), nothing),
    case("ssh_proxy", |_| words(&["ssh-proxy", "box"]), At::Phase("GET /v1/vms"), nothing),
    // Operations that are undone.
    case("creating_for_run", |_| words(&["vm", "run", "--name", "new", "--", "true"]), At::Operation("create"), undone),
    case("creating_for_run_rm", |_| words(&["vm", "run", "--rm", "--name", "new", "--", "true"]), At::Operation("create"), undone),
    case("creating", |_| words(&["vm", "create", "--name", "new"]), At::Operation("create"), undone),
    case("starting", |_| words(&["vm", "start", "box"]), At::Operation("start"), undone),
    case("starting_several", |_| words(&["vm", "start", "box", "other"]), At::Operation("start"), undone),
    case("pausing", |_| words(&["vm", "pause", "box"]), At::Operation("pause"), undone),
    case("resuming", |_| words(&["vm", "resume", "box"]), At::Operation("resume"), undone),
    case("killing", |_| words(&["vm", "kill", "box"]), At::Operation("kill"), undone),
    case("setting", |_| words(&["vm", "set", "--vcpu", "2", "box"]), At::Operation("set"), undone),
    case("pulling_an_image", |_| words(&["image", "pull", "alpine"]), At::Operation("image"), undone),
    case("importing_an_image", import, At::Operation("image"), undone),
    case("bundling_an_image", |_| words(&["image", "bundle", "tiny", "out.tar.zst"]), At::Operation("image"), no_bundle),
    case("committing", |_| words(&["image", "commit", "box", "mine"]), At::Operation("commit"), undone),
    case("doctor_boot", |_| words(&["doctor", "--boot"]), At::Phase("guest exec true"), no_new_vm),
    // Operations that the daemon finishes.
    case("stopping", |_| words(&["vm", "stop", "box"]), At::Operation("stop"), continues),
    case("restarting", |_| words(&["vm", "restart", "box"]), At::Operation("restart"), continues),
    case("deleting", |_| words(&["vm", "delete", "--force", "box"]), At::Operation("delete"), continues),
    case("deleting_several", |_| words(&["vm", "delete", "--force", "box", "other"]), At::Operation("delete"), continues),
    // Sessions and copies before the guest answers.
    case("connecting_to_the_guest", |_| words(&["vm", "exec", "box", "--", "true"]), At::Phase("GET /v1/vms/box/tunnel"), nothing),
    case("copying_in", |_| words(&["vm", "cp", "file", "box:/nowhere/"]), At::Phase("guest copy in"), nothing),
    case("copying_out", |host| words(&["vm", "cp", &format!("box:{}", host.path("repo/file").display()), "copy"]), At::Phase("guest copy out"), no_copy),
    // A repository, before and while it is sent.
    case("reading_a_repository", |host| run(host, &[]), At::Phase("git rev-parse"), git_has_ended),
    case("packing", |host| run(host, &[]), At::Phase("git pack-objects"), git_has_ended),
    case("packing_for_rm", |host| run(host, &["--rm"]), At::Phase("git pack-objects"), git_has_ended),
    case("sending", |host| run(host, &[]), At::Phase("guest workspace place"), no_new_vm),
    case("sending_for_rm", |host| run(host, &["--rm"]), At::Phase("guest workspace place"), no_new_vm),
    case("preparing", prepare, At::Phase("guest workspace place"), nothing),
    case("preparing_in_git", prepare, At::Phase("git pack-objects"), git_has_ended),
    // Tools and setup commands: the command does not run.
    case("setup", |host| setup(host, &[]), At::Stderr("ready"), kept_without_command),
    case("setup_for_rm", |host| setup(host, &["--rm"]), At::Stderr("ready"), deleted_without_command),
    // Bringing work back.
    case("pulling_listing", |host| sent(host, &["vm", "workspace", "pull", "box"]), At::Phase("guest workspace list"), nothing),
    case("pulling_fetching", |host| changed(host, &["vm", "workspace", "pull", "box"]), At::Phase("guest workspace fetch"), nothing),
    case("pulling_in_git", |host| changed(host, &["vm", "workspace", "pull", "box"]), At::Phase("git update-ref"), git_has_ended),
    case("pulling_in_git_from_the_guest", |host| committed(host, &["vm", "workspace", "pull", "box"]), At::Phase("guest exec git -c uploadpack"), git_has_ended),
    case("pulling_while_the_guests_git_works", |host| committed(host, &["vm", "workspace", "pull", "box"]), At::Phase("guest exec git"), git_has_ended),
    case("exporting_listing", |host| sent(host, &["vm", "workspace", "export", "box"]), At::Phase("guest workspace list"), nothing),
    case("exporting_in_git", |host| changed(host, &["vm", "workspace", "export", "box"]), At::Phase("git rev-parse"), git_has_ended),
    case("pushing", pushed, At::Phase("guest workspace change"), nothing),
    case("saving_work_before_delete", |host| changed(host, &["vm", "delete", "--force", "box"]), At::Phase("guest workspace list"), work_is_kept),
    case("fetching_work_before_delete", |host| changed(host, &["vm", "delete", "--force", "box"]), At::Phase("guest workspace fetch"), work_is_kept),
    case("saving_work_in_git_before_delete", |host| changed(host, &["vm", "delete", "--force", "box"]), At::Phase("git update-ref"), work_is_kept),
    // Building an image.
    case("building", build, At::Stderr("ready"), no_new_vm),
];

pub(crate) fn trials() -> Vec<Trial> {
    let cases = CASES.iter().flat_map(|&case| SIGNALS.map(|signal| (case, signal)));
    let cases = cases.map(|(case, signal)| {
        trial(format!("signals::{}::{}", case.name, name(signal)), move || press(case, signal))
    });
    let others: &[SignalTest] = &[
        ("a_second_signal_leaves_the_undo_to_the_daemon", a_second_signal_leaves_the_undo_to_the_daemon),
        ("a_session_passes_signals_on", a_session_passes_signals_on),
        (
            "the_third_signal_without_an_answer_ends_a_session",
            the_third_signal_without_an_answer_ends_a_session,
        ),
        ("a_signal_restores_the_terminal_of_a_session", a_signal_restores_the_terminal_of_a_session),
        ("run_rm_deletes_the_vm_after_its_session", run_rm_deletes_the_vm_after_its_session),
        ("run_rm_saves_work_after_its_session", run_rm_saves_work_after_its_session),
        ("a_signal_while_work_is_listed_keeps_the_vm", |signal| keeps_vm(signal, "guest workspace list")),
        ("a_signal_while_work_is_fetched_keeps_the_vm", |signal| keeps_vm(signal, "guest workspace fetch")),
        ("a_signal_while_work_is_saved_keeps_the_vm", |signal| keeps_vm(signal, "git update-ref")),
        ("a_signal_while_the_vm_is_deleted_leaves_that_to_the_daemon", deletion_continues),
        (
            "a_signal_after_setup_was_interrupted_keeps_the_vm",
            a_signal_after_setup_was_interrupted_keeps_the_vm,
        ),
        ("ssh_gets_signals", ssh_gets_signals),
        ("a_question_ends_at_once", a_question_ends_at_once),
        ("a_question_about_files_ends_at_once", a_question_about_files_ends_at_once),
        ("a_table_that_is_updated_ends_at_once", a_table_that_is_updated_ends_at_once),
        ("forwarded_ports_are_closed_with_the_session", forwarded_ports_are_closed_with_the_session),
        ("reading_a_script_from_standard_input_ends_at_once", reading_a_script_ends_at_once),
        ("copying_from_standard_input_ends", copying_from_standard_input_ends),
        ("a_session_whose_output_is_not_read_ends", a_session_whose_output_is_not_read_ends),
        ("copying_to_a_pipe_that_is_not_read_ends", copying_to_a_pipe_that_is_not_read_ends),
    ];
    let others = others.iter().flat_map(|&(name_of_test, test)| {
        SIGNALS
            .map(|signal| trial(format!("signals::{name_of_test}::{}", name(signal)), move || test(signal)))
    });
    let single: &[SingleTest] = &[
        ("a_closed_terminal_ends_a_session", a_closed_terminal_ends_a_session),
        ("a_closed_terminal_saves_work_and_deletes_the_vm", a_closed_terminal_saves_work_and_deletes_the_vm),
        (
            "a_program_that_ignores_a_closed_terminal_is_left",
            a_program_that_ignores_a_closed_terminal_is_left,
        ),
        ("nohup_ignores_a_closed_terminal", nohup_ignores_a_closed_terminal),
        ("quit_ends_banger_outside_of_a_session", quit_ends_banger_outside_of_a_session),
    ];
    let single = single.iter().map(|&(name, test)| trial(format!("signals::{name}"), test));
    cases.chain(others).chain(single).collect()
}

fn name(signal: Signal) -> &'static str {
    match signal {
        Signal::INT => "INT",
        Signal::TERM => "TERM",
        _ => "HUP",
    }
}

fn press(case: Case, signal: Signal) -> Result<()> {
    let mut host = Host::new(&["box", "other"])?;
    let arguments = (case.set_up)(&mut host)?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match case.at {
        At::Phase(phase) => host.phases.hang(&[phase])?,
        At::Operation(kind) => host.phases.hang(&[&format!("operation {kind}")])?,
        At::Stderr(_) | At::Stdout(_) => {}
    }
    host.phases.clear();
    let mut running = host.start(&arguments)?;
    match case.at {
        At::Phase(phase) => _ = host.phases.wait_for(phase)?,
        At::Operation(kind) => running.wait_for_stderr(&stage(kind))?,
        At::Stderr(text) => running.wait_for_stderr(text)?,
        At::Stdout(text) => running.wait_for_stdout(text)?,
    }
    running.signal(signal)?;
    let stderr = running.finish()?.ended_by(signal)?;
    host.phases.hang(&[])?;
    let ended = Ended { stderr: &stderr };
    (case.check)(&mut host, &ended).with_context(|| format!("it printed: {stderr}"))
}

fn words(words: &[&str]) -> Result<Vec<String>> {
    Ok(words.iter().map(|word| (*word).to_owned()).collect())
}

fn import(host: &mut Host) -> Result<Vec<String>> {
    fs::write(host.path("repo/a.tar"), "not read")?;
    words(&["image", "import", "mine", "a.tar"])
}

fn build(host: &mut Host) -> Result<Vec<String>> {
    fs::write(host.path("repo/script"), "echo ready; exec sleep infinity\n")?;
    words(&["image", "build", "mine", "--from", "tiny", "--run", "script"])
}

/// Returns `vm run` with the repository, in a VM `new`.
fn run(host: &Host, options: &[&str]) -> Result<Vec<String>> {
    let guest_path = host.workspace("new").display().to_string();
    let command = ["vm", "run", "--name", "new", "--guest-path", &guest_path];
    words(&[&command[..], options, &[".", "--", "touch", &ran(host)]].concat())
}

/// Returns the path of the file that the command of `run` creates.
fn ran(host: &Host) -> String {
    host.path("ran").display().to_string()
}

fn setup(host: &mut Host, options: &[&str]) -> Result<Vec<String>> {
    fs::write(host.path("repo/banger.toml"), "[workspace]\nsetup = ['echo ready; exec sleep infinity']\n")?;
    run(host, &[options, &["--wait-tools"]].concat())
}

fn prepare(host: &mut Host) -> Result<Vec<String>> {
    let guest_path = host.workspace("box").display().to_string();
    words(&["vm", "workspace", "prepare", "box", "--guest-path", &guest_path])
}

/// Returns a command on a workspace in VM `box`.
fn sent(host: &mut Host, command: &[&str]) -> Result<Vec<String>> {
    host.prepare("box")?;
    words(command)
}

/// Returns a command on a workspace in VM `box` with uncommitted work.
fn changed(host: &mut Host, command: &[&str]) -> Result<Vec<String>> {
    host.prepare("box")?;
    fs::write(host.workspace("box").join("file"), "work\n")?;
    words(command)
}

/// Returns a command on a workspace in VM `box` with a commit of its own.
fn committed(host: &mut Host, command: &[&str]) -> Result<Vec<String>> {
    let command = changed(host, command)?;
    host.git_in(&host.workspace("box"), &["commit", "-q", "-a", "-m", "work"])?;
    Ok(command)
}

fn pushed(host: &mut Host) -> Result<Vec<String>> {
    host.prepare("box")?;
    host.git(&["commit", "-q", "--allow-empty", "-m", "second"])?;
    words(&["vm", "workspace", "push", "box"])
}

fn nothing(_: &mut Host, _: &Ended<'_>) -> Result<()> {
    Ok(())
}

fn undone(host: &mut Host, ended: &Ended<'_>) -> Result<()> {
    host.phases.wait_for("undone")?;
    ensure!(ended.stderr.contains("Undoing the operation"), "it does not say what it does");
    no_new_vm(host, ended)
}

fn continues(_: &mut Host, ended: &Ended<'_>) -> Result<()> {
    ensure!(ended.stderr.contains("bangerd continues"), "it does not say that the operation continues");
    Ok(())
}

fn no_new_vm(host: &mut Host, _: &Ended<'_>) -> Result<()> {
    ensure!(!host.has_vm("new")?, "the VM exists");
    let records = fs::read_dir(host.path("state/banger/workspaces"));
    ensure!(records.map_or(0, Iterator::count) == 0, "records of the deleted VM remain");
    Ok(())
}

fn no_bundle(host: &mut Host, ended: &Ended<'_>) -> Result<()> {
    undone(host, ended)?;
    check_files(host, &[".git", "file"])
}

fn no_copy(host: &mut Host, _: &Ended<'_>) -> Result<()> {
    check_files(host, &[".git", "file"])
}

/// Checks that the repository's directory has these entries alone.
fn check_files(host: &Host, expected: &[&str]) -> Result<()> {
    let entries = fs::read_dir(host.path("repo"))?;
    let mut names: Vec<_> =
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<Result<_>>()?;
    names.sort();
    ensure!(names == expected, "{names:?} are left");
    Ok(())
}

/// Checks that no git of the command runs, nor what git has started, and its temporary repositories are removed.
fn git_has_ended(host: &mut Host, _: &Ended<'_>) -> Result<()> {
    for name in ["git", "banger"] {
        let running = host.processes(name)?;
        ensure!(running.is_empty(), "{name} still runs: {running:?}");
    }
    for dir in ["cache/banger/workspace", "state/banger/rescue"] {
        let left = fs::read_dir(host.path(dir)).map_or(0, Iterator::count);
        ensure!(left == 0, "{left} temporary repositories are left in {dir}");
    }
    ensure!(!host.has_vm("new")?, "the VM exists");
    Ok(())
}

fn kept_without_command(host: &mut Host, ended: &Ended<'_>) -> Result<()> {
    ensure!(!Path::new(&ran(host)).exists(), "the command ran");
    ensure!(ended.stderr.contains("VM new is kept; delete it with: banger vm delete new"), "nothing is said");
    ensure!(host.has_vm("new")?, "the VM is deleted");
    Ok(())
}

fn deleted_without_command(host: &mut Host, ended: &Ended<'_>) -> Result<()> {
    ensure!(!Path::new(&ran(host)).exists(), "the command ran");
    no_new_vm(host, ended)
}

fn work_is_kept(host: &mut Host, ended: &Ended<'_>) -> Result<()> {
    ensure!(ended.stderr.contains("VM box was not deleted"), "it does not say that the VM exists");
    ensure!(host.has_vm("box")?, "the VM is deleted");
    host.ok(&["vm", "delete", "--force", "box"])?;
    let saved = host.saved("box", "file")?;
    ensure!(saved.as_deref() == Some("work\n"), "the work is lost: {saved:?}");
    Ok(())
}

/// Starts `banger` with `phases` hanging, and waits until the first one is reached.
fn start_until(host: &mut Host, arguments: &[&str], phases: &[&str]) -> Result<Running> {
    host.phases.hang(phases)?;
    host.phases.clear();
    let running = host.start(arguments)?;
    host.phases.wait_for(phases.first().context("no phase")?)?;
    Ok(running)
}

fn a_second_signal_leaves_the_undo_to_the_daemon(signal: Signal) -> Result<()> {
    let mut host = Host::new(&[])?;
    let arguments = ["vm", "run", "--rm", "--name", "new", "--", "true"];
    let mut running = start_until(&mut host, &arguments, &["operation create", "undo create"])?;
    running.wait_for_stderr(&stage("create"))?;
    running.signal(signal)?;
    running.wait_for_stderr("Undoing the operation")?;
    host.phases.wait_for("undo create")?;
    if signal == Signal::HUP {
        // A closed terminal may cause several.
        running.signal(Signal::HUP)?;
    }
    running.signal(Signal::TERM)?;
    let stderr = running.finish()?.ended_by(Signal::TERM)?;
    ensure!(stderr.contains("bangerd continues to undo the operation"), "it printed: {stderr}");
    Ok(())
}

/// A program that answers each signal and then ends.
const ANSWERS: &str = "trap 'echo caught; exit 9' INT TERM HUP; echo ready; while :; do sleep 0.01; done";

/// A program that ignores all signals, until its input ends.
const IGNORES: &str = "trap '' INT TERM HUP; echo ready; exec sleep infinity";

fn a_session_passes_signals_on(signal: Signal) -> Result<()> {
    let host = Host::new(&["box"])?;
    let mut running = host.start(&["vm", "exec", "box", "--", "sh", "-c", ANSWERS])?;
    running.wait_for_stdout("ready")?;
    running.signal(signal)?;
    let stdout = running.finish()?.code(9)?;
    ensure!(stdout.contains("caught"), "it printed {stdout}");
    Ok(())
}

fn the_third_signal_without_an_answer_ends_a_session(signal: Signal) -> Result<()> {
    let host = Host::new(&["box"])?;
    let mut running = host.start(&["vm", "exec", "box", "--", "sh", "-c", IGNORES])?;
    running.wait_for_stdout("ready")?;
    // Different ones, because the same signal counts once until it is handled.
    for signal in SIGNALS.into_iter().filter(|other| *other != signal) {
        running.signal(signal)?;
    }
    running.signal(signal)?;
    let status = running.finish()?.status.code();
    ensure!(SIGNALS.iter().any(|signal| status == Some(128 + signal.as_raw())), "{status:?}");
    Ok(())
}

fn a_signal_restores_the_terminal_of_a_session(signal: Signal) -> Result<()> {
    let host = Host::new(&["box"])?;
    let mut terminal = Terminal::start(&host.command(&["vm", "exec", "box", "--", "sh", "-c", ANSWERS])?)?;
    terminal.wait_for("ready")?;
    ensure!(!terminal.is_cooked()?, "the terminal is not in raw mode");
    terminal.signal(signal)?;
    terminal.wait_for("caught")?;
    ensure!(terminal.wait()?.code() == Some(9), "the exit status is not the program's");
    ensure!(terminal.is_cooked()?, "the terminal's modes were not restored");
    Ok(())
}

fn run_rm_deletes_the_vm_after_its_session(signal: Signal) -> Result<()> {
    let host = Host::new(&[])?;
    let mut running = host.start(&["vm", "run", "--rm", "--name", "new", "--", "sh", "-c", ANSWERS])?;
    running.wait_for_stdout("ready")?;
    running.signal(signal)?;
    running.finish()?.code(9)?;
    ensure!(!host.has_vm("new")?, "the VM exists");
    Ok(())
}

/// Returns `vm run --rm` with a command that changes the repository and then waits for a signal.
fn run_with_work(host: &Host, command: &str) -> Result<Vec<String>> {
    let guest_path = host.workspace("new").display().to_string();
    let arguments = ["vm", "run", "--rm", "--name", "new", "--guest-path", &guest_path, ".", "--"];
    let script = format!("echo work > file; {command}");
    words(&[&arguments[..], &["sh", "-c", &script]].concat())
}

fn run_rm_saves_work_after_its_session(signal: Signal) -> Result<()> {
    let host = Host::new(&[])?;
    let arguments = run_with_work(&host, ANSWERS)?;
    let mut running = host.start(&arguments.iter().map(String::as_str).collect::<Vec<_>>())?;
    running.wait_for_stdout("ready")?;
    running.signal(signal)?;
    running.finish()?.code(9)?;
    ensure!(!host.has_vm("new")?, "the VM exists");
    ensure!(host.saved("new", "file")?.as_deref() == Some("work\n"), "the work is lost");
    Ok(())
}

fn keeps_vm(signal: Signal, phase: &str) -> Result<()> {
    let mut host = Host::new(&[])?;
    let arguments = run_with_work(&host, "true")?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let running = start_until(&mut host, &arguments, &[phase])?;
    running.signal(signal)?;
    let stderr = running.finish()?.ended_by(signal)?;
    host.phases.hang(&[])?;
    ensure!(stderr.contains("banger vm delete --force new"), "it does not say how to go on: {stderr}");
    ensure!(host.has_vm("new")?, "the VM is deleted");
    host.ok(&["vm", "delete", "--force", "new"])?;
    ensure!(host.saved("new", "file")?.as_deref() == Some("work\n"), "the work is lost");
    Ok(())
}

fn deletion_continues(signal: Signal) -> Result<()> {
    let mut host = Host::new(&[])?;
    let arguments = run_with_work(&host, "true")?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let running = start_until(&mut host, &arguments, &["operation delete"])?;
    running.signal(signal)?;
    let stderr = running.finish()?.ended_by(signal)?;
    ensure!(stderr.contains("bangerd continues to delete VM new"), "it printed: {stderr}");
    ensure!(host.saved("new", "file")?.as_deref() == Some("work\n"), "the work is lost");
    Ok(())
}

fn a_signal_after_setup_was_interrupted_keeps_the_vm(signal: Signal) -> Result<()> {
    let mut host = Host::new(&[])?;
    let arguments = setup(&mut host, &["--rm"])?;
    host.phases.hang(&["guest workspace list"])?;
    let mut running = host.start(&arguments.iter().map(String::as_str).collect::<Vec<_>>())?;
    running.wait_for_stderr("ready")?;
    running.signal(Signal::TERM)?;
    host.phases.wait_for("guest workspace list")?;
    running.signal(signal)?;
    let stderr = running.finish()?.ended_by(Signal::TERM)?;
    host.phases.hang(&[])?;
    ensure!(stderr.contains("banger vm delete --force new"), "it does not say how to go on: {stderr}");
    ensure!(host.has_vm("new")?, "the VM is deleted");
    Ok(())
}

fn ssh_gets_signals(signal: Signal) -> Result<()> {
    let mut host = Host::new(&["box"])?;
    let running = host.start(&["vm", "ssh", "box"])?;
    host.phases.wait_for("ssh")?;
    running.signal(signal)?;
    host.phases.wait_for(&format!("ssh got {}", name(signal)))?;
    running.finish()?.code(SSH_STATUS.into())?;
    Ok(())
}

fn a_question_ends_at_once(signal: Signal) -> Result<()> {
    let host = Host::new(&["box"])?;
    host.ok(&["vm", "stop", "box"])?;
    let mut terminal = Terminal::start(&host.command(&["vm", "prune"])?)?;
    terminal.wait_for("[y/N]")?;
    match signal {
        Signal::INT => terminal.send_keys("\x03")?,
        signal => terminal.signal(signal)?,
    }
    let status = terminal.wait()?.code();
    ensure!(status == Some(128 + signal.as_raw()), "{status:?}");
    ensure!(host.has_vm("box")?, "the VM is deleted");
    Ok(())
}

fn a_question_about_files_ends_at_once(signal: Signal) -> Result<()> {
    let host = Host::new(&[])?;
    fs::write(host.path("repo/banger.toml"), "[[file_sync]]\nhost = '~/mine'\nguest = '~/mine'\n")?;
    let arguments = run(&host, &["--rm"])?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut terminal = Terminal::start(&host.command(&arguments)?)?;
    terminal.wait_for("[y/N]")?;
    terminal.signal(signal)?;
    let status = terminal.wait()?.code();
    ensure!(status == Some(128 + signal.as_raw()), "{status:?}");
    ensure!(!host.has_vm("new")?, "the VM exists");
    Ok(())
}

fn a_table_that_is_updated_ends_at_once(signal: Signal) -> Result<()> {
    let host = Host::new(&["box"])?;
    let mut terminal = Terminal::start(&host.command(&["vm", "stats"])?)?;
    terminal.wait_for("NAME")?;
    match signal {
        Signal::INT => terminal.send_keys("\x03")?,
        signal => terminal.signal(signal)?,
    }
    let status = terminal.wait()?.code();
    ensure!(status == Some(128 + signal.as_raw()), "{status:?}");
    Ok(())
}

fn forwarded_ports_are_closed_with_the_session(signal: Signal) -> Result<()> {
    let host = Host::new(&[])?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let forward = format!("{port}:{port}");
    let arguments = ["vm", "run", "--rm", "--name", "new", "-p", &forward, "--", "sh", "-c", ANSWERS];
    let mut running = host.start(&arguments)?;
    running.wait_for_stderr(&format!("port {port} of VM new is at 127.0.0.1:"))?;
    running.wait_for_stdout("ready")?;
    running.signal(signal)?;
    running.finish()?.code(9)?;
    ensure!(!host.has_vm("new")?, "the VM exists");
    TcpListener::bind(("127.0.0.1", port)).context("the port is still open")?;
    Ok(())
}

/// More than a pipe holds: once it is written, the other side reads.
const MORE_THAN_A_PIPE: usize = 256 << 10;

fn reading_a_script_ends_at_once(signal: Signal) -> Result<()> {
    let host = Host::new(&[])?;
    let mut running = host.start(&["image", "build", "mine", "--from", "tiny", "--run", "-"])?;
    running.write(&vec![b'#'; MORE_THAN_A_PIPE])?;
    running.signal(signal)?;
    running.finish()?.ended_by(signal)?;
    Ok(())
}

fn copying_from_standard_input_ends(signal: Signal) -> Result<()> {
    let host = Host::new(&["box"])?;
    let target = format!("box:{}", host.path("copy").display());
    let mut running = host.start(&["vm", "cp", "-", &target])?;
    running.write(&vec![b'#'; MORE_THAN_A_PIPE])?;
    running.signal(signal)?;
    running.finish()?.ended_by(signal)?;
    Ok(())
}

fn a_session_whose_output_is_not_read_ends(signal: Signal) -> Result<()> {
    let host = Host::new(&["box"])?;
    let running = Running::start_unread(host.command(&["vm", "exec", "box", "--", "yes"])?)?;
    running.wait_until_unread()?;
    for signal in SIGNALS.into_iter().filter(|other| *other != signal) {
        running.signal(signal)?;
    }
    running.signal(signal)?;
    let status = running.finish()?.status.code();
    ensure!(SIGNALS.iter().any(|signal| status == Some(128 + signal.as_raw())), "{status:?}");
    Ok(())
}

fn copying_to_a_pipe_that_is_not_read_ends(signal: Signal) -> Result<()> {
    let mut host = Host::new(&["box"])?;
    fs::write(host.path("large"), vec![0; 64 << 20])?;
    let source = format!("box:{}", host.path("large").display());
    let running = Running::start_unread(host.command(&["vm", "cp", &source, "-"])?)?;
    host.phases.wait_for("guest copy out")?;
    running.wait_until_unread()?;
    running.signal(signal)?;
    running.finish()?.ended_by(signal)?;
    Ok(())
}

fn a_closed_terminal_ends_a_session() -> Result<()> {
    let host = Host::new(&["box"])?;
    let mut terminal = Terminal::start(&host.command(&["vm", "exec", "box", "--", "sh", "-c", ANSWERS])?)?;
    terminal.wait_for("ready")?;
    terminal.close()?;
    let status = terminal.wait()?.code();
    ensure!(status == Some(9) || status == Some(128 + Signal::HUP.as_raw()), "{status:?}");
    Ok(())
}

fn a_closed_terminal_saves_work_and_deletes_the_vm() -> Result<()> {
    let mut host = Host::new(&[])?;
    let arguments = run_with_work(&host, "echo ready; exec sleep infinity")?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut terminal = Terminal::start(&host.command(&arguments)?)?;
    terminal.wait_for("ready")?;
    terminal.close()?;
    host.phases.wait_for("done delete")?;
    let status = terminal.wait()?.code();
    ensure!(status == Some(128 + Signal::HUP.as_raw()), "{status:?}");
    ensure!(host.saved("new", "file")?.as_deref() == Some("work\n"), "the work is lost");
    Ok(())
}

fn a_program_that_ignores_a_closed_terminal_is_left() -> Result<()> {
    let host = Host::new(&["box"])?;
    let mut terminal = Terminal::start(&host.command(&["vm", "exec", "box", "--", "sh", "-c", IGNORES])?)?;
    terminal.wait_for("ready")?;
    terminal.close()?;
    let status = terminal.wait()?.code();
    ensure!(status == Some(128 + Signal::HUP.as_raw()), "{status:?}");
    Ok(())
}

fn nohup_ignores_a_closed_terminal() -> Result<()> {
    let host = Host::new(&["box"])?;
    let banger = host.command(&["vm", "exec", "box", "--", "sh", "-c", ANSWERS])?;
    let mut nohup = std::process::Command::new("nohup");
    // Without the reset of signals.
    nohup.args(banger.get_args().skip(1)).env_clear().current_dir(host.path("repo"));
    nohup.envs(banger.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut running = Running::start(nohup)?;
    running.wait_for_stdout("ready")?;
    running.signal(Signal::HUP)?;
    running.signal(Signal::TERM)?;
    running.finish()?.code(9)?;
    Ok(())
}

fn quit_ends_banger_outside_of_a_session() -> Result<()> {
    let mut host = Host::new(&["box"])?;
    let running = start_until(&mut host, &["ps"], &["GET /v1/vms"])?;
    running.signal(Signal::QUIT)?;
    running.finish()?.ended_by(Signal::QUIT)?;
    Ok(())
}
