//! Signals in a session and after it, to a question, and where a second signal follows.

use std::fs;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::{
    host::Host,
    operation::stage,
    programs::SSH_STATUS,
    run::Running,
    signals::{SIGNALS, name, run, setup, words},
    terminal::Terminal,
    trial,
};

/// A test for each signal, and its name.
type SignalTest = (&'static str, fn(Signal) -> Result<()>);

/// A test for one signal, and its name.
type SingleTest = (&'static str, fn() -> Result<()>);

pub(crate) fn trials() -> Vec<Trial> {
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
        ("reading_a_script_from_standard_input_ends_at_once", reading_a_script_ends_at_once),
        ("copying_from_standard_input_ends", copying_from_standard_input_ends),
        ("a_session_whose_output_is_not_read_ends", a_session_whose_output_is_not_read_ends),
        ("copying_to_a_pipe_that_is_not_read_ends", copying_to_a_pipe_that_is_not_read_ends),
    ];
    let others = others.iter().flat_map(|&(name_of_test, test)| {
        SIGNALS
            .map(|signal| trial(format!("sessions::{name_of_test}::{}", name(signal)), move || test(signal)))
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
    let single = single.iter().map(|&(name, test)| trial(format!("sessions::{name}"), test));
    others.chain(single).collect()
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
    the_third_one_ends(running, signal)
}

/// Sends each signal, this one last, and checks that one of them has ended the command.
fn the_third_one_ends(running: Running, signal: Signal) -> Result<()> {
    // Different ones, because the same signal counts once until it is handled.
    for signal in SIGNALS.into_iter().filter(|other| *other != signal).chain([signal]) {
        running.signal(signal)?;
    }
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
    the_third_one_ends(running, signal)
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
    let answers = "trap 'exit 7' HUP; trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done";
    let banger = host.command(&["vm", "exec", "box", "--", "sh", "-c", answers])?;
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
