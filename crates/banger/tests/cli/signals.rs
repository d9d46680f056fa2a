//! Presses each signal in each phase of each command. A phase is recognised by what the daemon, the guest or a program
//! has seen, or by a line on standard error, and hangs: only the signal can end it.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::{host::Host, operation::stage, trial};

/// The signals that end or cancel a command.
pub(crate) const SIGNALS: [Signal; 3] = [Signal::INT, Signal::TERM, Signal::HUP];

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
    cases.collect()
}

pub(crate) fn name(signal: Signal) -> &'static str {
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

pub(crate) fn words(words: &[&str]) -> Result<Vec<String>> {
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
pub(crate) fn run(host: &Host, options: &[&str]) -> Result<Vec<String>> {
    let guest_path = host.workspace("new").display().to_string();
    let command = ["vm", "run", "--name", "new", "--guest-path", &guest_path];
    words(&[&command[..], options, &[".", "--", "touch", &ran(host)]].concat())
}

/// Returns the path of the file that the command of `run` creates.
fn ran(host: &Host) -> String {
    host.path("ran").display().to_string()
}

pub(crate) fn setup(host: &mut Host, options: &[&str]) -> Result<Vec<String>> {
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
