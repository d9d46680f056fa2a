//! Kills `banger` before and after every step by which it changes something for good, in every command that reaches it.
//!
//! Whatever then follows, nothing of the user's is lost: a VM with work that exists nowhere else is not deleted, and
//! files of the user and of banger are as before or as after the step.

use std::{
    collections::BTreeSet,
    fs,
    process::Command,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::{
    host::Host,
    run::{Finished, Running},
    terminal::Terminal,
    trial,
};

/// Names of the points at which `banger` was killed.
static REACHED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// The user's ssh configuration before banger changes it.
const SSH_CONFIG: &str = "Host mine\n    Port 1\n";

/// A command that is killed at each of its points.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    /// Makes a host ready, and returns the command.
    set_up: fn(&mut Host) -> Result<Command>,
    /// The exit status of the command if it is not killed.
    status: i32,
    /// Checks the host after the command was killed at this point.
    check: fn(&mut Host, &str) -> Result<()>,
}

#[rustfmt::skip]
const CASES: &[Case] = &[
    Case { name: "sending_a_repository", set_up: prepare, status: 0, check: work_is_saved },
    Case { name: "sending_a_directory", set_up: copy, status: 0, check: work_is_saved },
    Case { name: "sending_to_a_path_that_is_taken", set_up: prepare_where_occupied, status: 1, check: nothing_is_lost_where_occupied },
    Case { name: "sending_changes", set_up: prepare_again, status: 0, check: changes_arrive },
    Case { name: "pushing", set_up: push, status: 0, check: a_push_arrives },
    Case { name: "pulling", set_up: pull, status: 0, check: work_is_saved },
    Case { name: "deleting", set_up: delete, status: 0, check: work_is_saved },
    Case { name: "deleting_without_the_work", set_up: discard, status: 0, check: no_records_are_left },
    Case { name: "run_rm", set_up: run, status: 0, check: work_of_a_run_is_saved },
    Case { name: "installing_the_ssh_configuration", set_up: install, status: 0, check: the_ssh_configuration_is_complete },
    Case { name: "uninstalling_the_ssh_configuration", set_up: uninstall, status: 0, check: the_ssh_configuration_is_complete },
];

pub(crate) fn trials() -> Vec<Trial> {
    let cases =
        CASES.iter().map(|&case| trial(format!("killed::{}", case.name), move || kill_at_all_points(case)));
    let others = [
        trial("killed::consenting", consenting),
        trial("killed::while_the_guest_gets_a_repository", || killed_while("guest workspace place")),
        trial("killed::while_git_packs", || killed_while("git pack-objects")),
        trial("killed::two_processes_do_not_lose_each_others_records", two_processes_take_turns),
        trial("killed::an_unreadable_record_is_kept", an_unreadable_record_is_kept),
    ];
    cases.chain(others).collect()
}

/// Checks that the tests have reached every fail point.
pub(crate) fn check_all_points_reached() -> Result<()> {
    let reached = REACHED.lock().unwrap_or_else(PoisonError::into_inner);
    let listed: BTreeSet<_> = Host::new(&[])?.ok(&["fail-points"])?.lines().map(str::to_owned).collect();
    ensure!(
        *reached == listed,
        "points that no command reaches: {:?}; unknown points: {:?}",
        listed.difference(&reached),
        reached.difference(&listed)
    );
    Ok(())
}

fn kill_at_all_points(case: Case) -> Result<()> {
    let mut host = Host::new(&["box", "other"])?;
    let command = (case.set_up)(&mut host)?;
    let points = record(&host, command, |command| Running::start(command)?.finish()?.code(case.status))?;
    for point in points {
        let mut host = Host::new(&["box", "other"])?;
        let mut command = (case.set_up)(&mut host)?;
        command.env("BANGER_FAIL_POINT", &point);
        let killed = Running::start(command)?.finish()?;
        was_killed(&killed)
            .and_then(|()| (case.check)(&mut host, &point))
            .with_context(|| format!("killed at {point}"))?;
    }
    Ok(())
}

/// Runs `command`, and returns the points that it reaches.
fn record<T>(
    host: &Host,
    mut command: Command,
    run: impl FnOnce(Command) -> Result<T>,
) -> Result<Vec<String>> {
    let file = host.path("record");
    command.env("BANGER_FAIL_POINT_RECORD", &file);
    run(command)?;
    let points: Vec<_> = fs::read_to_string(file)?.lines().map(str::to_owned).collect();
    ensure!(!points.is_empty(), "the command reaches no fail point");
    let names = points.iter().map(|point| point.split('#').next().unwrap_or_default().to_owned());
    REACHED.lock().unwrap_or_else(PoisonError::into_inner).extend(names);
    Ok(points)
}

fn was_killed(finished: &Finished) -> Result<()> {
    use std::os::unix::process::ExitStatusExt;
    ensure!(finished.status.signal() == Some(Signal::KILL.as_raw()), "it was not killed: {finished:?}");
    Ok(())
}

fn prepare_command(host: &Host, options: &[&str]) -> Result<Command> {
    let guest_path = host.workspace("box").display().to_string();
    host.command(&[&["vm", "workspace", "prepare", "box", "--guest-path", &guest_path], options].concat())
}

fn prepare(host: &mut Host) -> Result<Command> {
    prepare_command(host, &[])
}

fn copy(host: &mut Host) -> Result<Command> {
    prepare_command(host, &["--mode", "full-copy"])
}

fn prepare_where_occupied(host: &mut Host) -> Result<Command> {
    fs::create_dir(host.workspace("box"))?;
    fs::write(host.workspace("box").join("theirs"), "theirs\n")?;
    prepare_command(host, &[])
}

fn prepare_again(host: &mut Host) -> Result<Command> {
    host.prepare("box")?;
    fs::write(host.path("repo/file"), "changed\n")?;
    host.git(&["commit", "-q", "-a", "-m", "second"])?;
    prepare_command(host, &[])
}

fn push(host: &mut Host) -> Result<Command> {
    host.prepare("box")?;
    host.git(&["commit", "-q", "--allow-empty", "-m", "second"])?;
    host.command(&["vm", "workspace", "push", "box"])
}

/// Adds a commit and an edit in the guest, if it has the workspace.
fn work(host: &Host) -> Result<bool> {
    let workspace = host.workspace("box");
    if !workspace.join(".git").exists() {
        return Ok(false);
    }
    fs::write(workspace.join("committed"), "work\n")?;
    host.git_in(&workspace, &["add", "committed"])?;
    host.git_in(&workspace, &["commit", "-q", "--allow-empty", "-m", "work"])?;
    fs::write(workspace.join("file"), "work\n")?;
    Ok(true)
}

fn pull(host: &mut Host) -> Result<Command> {
    host.prepare("box")?;
    work(host)?;
    host.command(&["vm", "workspace", "pull", "box"])
}

fn delete(host: &mut Host) -> Result<Command> {
    host.prepare("box")?;
    work(host)?;
    host.command(&["vm", "delete", "--force", "box"])
}

fn discard(host: &mut Host) -> Result<Command> {
    host.prepare("box")?;
    work(host)?;
    host.command(&["vm", "delete", "--force", "--discard", "box"])
}

fn run(host: &mut Host) -> Result<Command> {
    let guest_path = host.workspace("new").display().to_string();
    let arguments = ["vm", "run", "--rm", "--name", "new", "--guest-path", &guest_path, ".", "--"];
    host.command(&[&arguments[..], &["sh", "-c", "echo work > file"]].concat())
}

fn install(host: &mut Host) -> Result<Command> {
    fs::create_dir(host.path("home/.ssh"))?;
    fs::write(host.path("home/.ssh/config"), SSH_CONFIG)?;
    host.command(&["ssh-config", "--install"])
}

fn uninstall(host: &mut Host) -> Result<Command> {
    Running::start(install(host)?)?.finish()?.code(0)?;
    host.command(&["ssh-config", "--uninstall"])
}

/// Works in the guest, deletes the VM, and checks that the work is in the host's repository.
fn work_is_saved(host: &mut Host, _: &str) -> Result<()> {
    let had_vm = host.has_vm("box")?;
    let has_work = !had_vm || work(host)? || host.workspace("box").exists();
    let pulled = host.banger(&["vm", "workspace", "pull", "box"])?;
    ensure!(pulled.status.success() == (had_vm && has_work), "pull: {pulled:?}");
    if had_vm {
        host.ok(&["vm", "delete", "--force", "box"])?;
    }
    ensure!(!host.workspace("box").exists(), "the VM's directory exists");
    if has_work {
        let saved = ["file", "committed"].map(|file| host.saved("box", file));
        for saved in saved {
            ensure!(saved?.as_deref() == Some("work\n"), "the work is lost");
        }
    }
    no_records_are_left(host, "")
}

/// Deletes another VM, and checks that no records are left of VMs that do not exist.
fn no_records_are_left(host: &mut Host, _: &str) -> Result<()> {
    if host.has_vm("box")? {
        host.ok(&["vm", "delete", "--force", "--discard", "box"])?;
    }
    host.ok(&["vm", "delete", "--force", "other"])?;
    let left = fs::read_dir(host.path("state/banger/workspaces")).map_or(0, Iterator::count);
    ensure!(left == 0, "{left} records are left");
    Ok(())
}

fn nothing_is_lost_where_occupied(host: &mut Host, _: &str) -> Result<()> {
    ensure!(fs::read(host.workspace("box").join("theirs"))? == b"theirs\n", "the guest's file is changed");
    host.ok(&["vm", "delete", "--force", "box"])?;
    no_records_are_left(host, "")
}

/// Sends the changes again, which completes what the killed process had begun, and works with them.
fn changes_arrive(host: &mut Host, point: &str) -> Result<()> {
    host.prepare("box")?;
    let workspace = host.workspace("box");
    ensure!(fs::read(workspace.join("file"))? == b"changed\n", "the change is not in the guest");
    ensure!(host.git_in(&workspace, &["status", "--porcelain"])?.is_empty(), "git sees changes in the guest");
    work_is_saved(host, point)
}

fn a_push_arrives(host: &mut Host, point: &str) -> Result<()> {
    host.ok_once_free(&["vm", "workspace", "push", "box"])?;
    let log = host.git_in(&host.workspace("box"), &["log", "--format=%s", "host/main"])?;
    ensure!(log == "second\nfirst\n", "the guest has {log}");
    work_is_saved(host, point)
}

fn work_of_a_run_is_saved(host: &mut Host, _: &str) -> Result<()> {
    let has_work = fs::read(host.workspace("new").join("file")).is_ok_and(|content| content == b"work\n");
    if host.has_vm("new")? {
        host.ok(&["vm", "delete", "--force", "new"])?;
    }
    ensure!(!has_work || host.saved("new", "file")?.as_deref() == Some("work\n"), "the work is lost");
    no_records_are_left(host, "")
}

fn the_ssh_configuration_is_complete(host: &mut Host, _: &str) -> Result<()> {
    let path = host.path("home/.ssh/config");
    ensure!(fs::read_to_string(&path)?.ends_with(SSH_CONFIG), "the user's lines are lost");
    host.ok(&["ssh-config", "--install"])?;
    let installed = fs::read_to_string(&path)?;
    ensure!(installed.ends_with(SSH_CONFIG) && installed.contains("Include"), "it is {installed}");
    host.ok(&["ssh-config"])?;
    host.ok(&["ssh-config", "--uninstall"])?;
    ensure!(fs::read_to_string(&path)? == SSH_CONFIG, "the user's file is not restored");
    let entries = fs::read_dir(host.path("home/.ssh"))?.count();
    ensure!(entries == 1, "temporary files are left");
    Ok(())
}

/// The user's permission to send a file is stored completely, or banger asks again.
fn consenting() -> Result<()> {
    let set_up = || -> Result<(Host, Command)> {
        let host = Host::new(&[])?;
        fs::write(host.path("home/mine"), "mine\n")?;
        fs::write(host.path("repo/banger.toml"), "[[file_sync]]\nhost = '~/mine'\nguest = '~/mine'\n")?;
        let guest_path = host.workspace("new").display().to_string();
        let arguments =
            ["vm", "run", "--rm", "--name", "new", "--guest-path", &guest_path, ".", "--", "true"];
        let command = host.command(&arguments)?;
        Ok((host, command))
    };
    let answer = |command: &Command| -> Result<Terminal> {
        let mut terminal = Terminal::start(command)?;
        terminal.wait_for("[y/N]")?;
        terminal.send_keys("y\n")?;
        Ok(terminal)
    };
    let (host, command) = set_up()?;
    let mut points = record(&host, command, |command| answer(&command)?.wait())?;
    points.retain(|point| point.contains("consent"));
    ensure!(!points.is_empty(), "the permission is not stored");
    for point in points {
        let (host, mut command) = set_up()?;
        command.env("BANGER_FAIL_POINT", &point);
        answer(&command)?.wait()?;
        command.env_remove("BANGER_FAIL_POINT");
        if point.contains("before") {
            answer(&command)?.wait()?;
        }
        let mut granted = Terminal::start(&command)?;
        granted.wait()?;
        ensure!(!granted.has_shown("[y/N]"), "banger asks although it has the permission, after {point}");
        drop(host);
    }
    Ok(())
}

/// Kills `vm workspace prepare` while something hangs, and sends the repository again.
fn killed_while(phase: &str) -> Result<()> {
    let mut host = Host::new(&["box", "other"])?;
    host.phases.hang(&[phase])?;
    let running = Running::start(prepare(&mut host)?)?;
    host.phases.wait_for(phase)?;
    running.signal(Signal::KILL)?;
    was_killed(&running.finish()?)?;
    host.phases.hang(&[])?;
    let pulled = host.banger(&["vm", "workspace", "pull", "box"])?;
    ensure!(!pulled.status.success(), "there is nothing to pull: {pulled:?}");
    host.prepare("box")?;
    work_is_saved(&mut host, "")
}

/// While one process sends, another waits for it, and then both have their effect.
fn two_processes_take_turns() -> Result<()> {
    let mut host = Host::new(&["box", "other"])?;
    host.phases.hang(&["git pack-objects"])?;
    let sending = Running::start(prepare(&mut host)?)?;
    host.phases.wait_for("git pack-objects")?;
    let mut waiting = Running::start(prepare(&mut host)?)?;
    waiting.wait_for_stderr("Waiting for process")?;
    host.phases.hang(&[])?;
    sending.signal(Signal::KILL)?;
    was_killed(&sending.finish()?)?;
    waiting.finish()?.code(0)?;
    work_is_saved(&mut host, "")
}

fn an_unreadable_record_is_kept() -> Result<()> {
    let mut host = Host::new(&["box"])?;
    host.prepare("box")?;
    let dir = host.path("state/banger/workspaces");
    let vm = fs::read_dir(&dir)?
        .filter_map(Result::ok)
        .find(|entry| entry.path().is_dir())
        .context("no record")?;
    let record = fs::read_dir(vm.path())?.next().context("no record")??.path();
    fs::write(&record, "from a newer banger")?;
    for command in [&["vm", "delete", "--force", "box"][..], &["vm", "workspace", "pull", "box"]] {
        let failed = host.banger(command)?;
        ensure!(failed.stderr.contains("cannot read the workspace record"), "{failed:?}");
    }
    Running::start(prepare(&mut host)?)?.finish()?.code(1)?;
    ensure!(
        fs::read(&record)? == b"from a newer banger" && host.has_vm("box")?,
        "the record or the VM is lost"
    );
    host.ok(&["vm", "delete", "--force", "--discard", "box"])?;
    ensure!(!record.exists(), "the record of the deleted VM is left");
    Ok(())
}
