//! Sessions: commands and shells in VMs.

use std::thread;

use anyhow::Result;
use banger_smoke::{Host, Terminal, debian, scenario};
use rustix::process::Signal;

#[scenario(Here, Lab, LabQemu)]
fn a_command_runs_on_the_vms_kernel_and_its_exit_code_is_returned() -> Result<()> {
    let host = Host::new()?;
    let out = host.banger(&["vm", "run", "--rm", "--", "sh", "-c", "uname -r; exit 42"])?.code(42)?;
    let kernel = host.json(&["kernel", "show", "debian-cloud"])?;
    assert_eq!(out.trim(), kernel["release"].as_str().unwrap());
    host.nothing_left()
}

#[scenario(Here, LabMore)]
fn standard_input_is_piped_to_the_command() -> Result<()> {
    let host = Host::tiny()?;
    let text: String = (0..200_000).map(|n| format!("line {n}\n")).collect();
    let out = host
        .start(&["vm", "run", "--rm", "--image", "tiny", "--", "busybox", "cat"])?
        .finish(text.as_bytes())?
        .success()?;
    assert!(out == text, "{} bytes came back of {}", out.len(), text.len());
    host.nothing_left()
}

#[scenario(Here, Lab)]
fn a_detached_vm_runs_commands_and_keeps_files_across_a_restart() -> Result<()> {
    let host = Host::tiny()?;
    assert_eq!(
        host.ok(&["vm", "run", "-d", "--name", "box", "--image", "tiny", "--vcpu", "2"])?.trim(),
        "box"
    );
    assert_eq!(host.ok(&["vm", "exec", "box", "--", "busybox", "nproc"])?.trim(), "2");
    assert_eq!(host.ok(&["vm", "exec", "box", "--", "busybox", "hostname"])?.trim(), "box");
    let script = "echo kept > /root/file; echo also > /etc/file; echo to stderr >&2";
    host.ok(&["vm", "exec", "box", "--", "sh", "-c", script])?;
    host.ok(&["vm", "stop", "box"])?;
    host.banger(&["vm", "exec", "box", "--", "busybox", "true"])?
        .fails(125, &["box", "stopped", "banger vm start box"])?;
    host.ok(&["vm", "start", "box"])?;
    assert_eq!(
        host.ok(&["vm", "exec", "box", "--", "busybox", "cat", "/root/file", "/etc/file"])?,
        "kept\nalso\n"
    );
    assert_eq!(host.ok(&["vm", "delete", "--force", "box"])?, "box\n");
    host.nothing_left()
}

#[scenario(Here, LabMore)]
fn a_shell_has_a_real_terminal() -> Result<()> {
    let host = debian()?;
    let mut terminal = Terminal::start(&host.command(&["vm", "shell", "box"]), 30, 100)?;
    terminal.send_keys("stty size; tty; echo $((40 + 2))\n")?;
    terminal.wait_for("30 100")?;
    terminal.wait_for("/dev/pts/")?;
    terminal.wait_for("42")?;
    assert!(!terminal.is_cooked()?, "the terminal is not in raw mode");
    terminal.resize(50, 120)?;
    terminal.send_keys("until [ \"$(stty size)\" = '50 120' ]; do sleep 0.1; done; echo at $((60 + 0))\n")?;
    terminal.wait_for("at 60")?;
    // Sums, so that the expected text is not the echo of the input, and the program runs before it is interrupted.
    terminal.send_keys("sh -c 'echo at $((60 + 1)); exec sleep 1000'\n")?;
    terminal.wait_for("at 61")?;
    terminal.send_keys("\x03")?;
    terminal.send_keys("echo at $((60 + 2))\n")?;
    terminal.wait_for("at 62")?;
    terminal.send_keys("exit 7\n")?;
    assert_eq!(terminal.wait()?.code(), Some(7));
    assert!(terminal.is_cooked()?, "the terminal's modes were not restored");
    Ok(())
}

#[scenario(Here, LabMore)]
fn parallel_runs_use_separate_vms() -> Result<()> {
    let host = Host::tiny()?;
    thread::scope(|scope| {
        let run = |text: &'static str| {
            let host = &host;
            scope.spawn(move || {
                host.ok(&[
                    "vm",
                    "run",
                    "--rm",
                    "--image",
                    "tiny",
                    "--",
                    "sh",
                    "-c",
                    &format!("hostname; echo {text}"),
                ])
            })
        };
        let (one, two) = (run("one"), run("two"));
        let (one, two) = (one.join().unwrap()?, two.join().unwrap()?);
        assert!(one.ends_with("one\n") && two.ends_with("two\n"), "{one:?} {two:?}");
        assert_ne!(one.lines().next(), two.lines().next());
        anyhow::Ok(())
    })?;
    host.nothing_left()
}

#[scenario(Here, LabMore)]
fn parallel_commands_in_one_vm_return_their_own_exit_codes() -> Result<()> {
    let host = debian()?;
    thread::scope(|scope| {
        let runs: Vec<_> = (0..8)
            .map(|n: u8| {
                let host = &host;
                scope.spawn(move || {
                    host.banger(&["vm", "exec", "box", "--", "sh", "-c", &format!("exit {n}")])
                })
            })
            .collect();
        for (n, run) in runs.into_iter().enumerate() {
            run.join().unwrap()?.code(i32::try_from(n)?)?;
        }
        Ok(())
    })
}

#[scenario(Here, LabMore)]
fn a_signal_reaches_the_command_in_the_guest() -> Result<()> {
    let host = Host::tiny()?;
    let script = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.1; done";
    let mut run = host.start(&["vm", "run", "--rm", "--image", "tiny", "--", "sh", "-c", script])?;
    run.wait_for_stdout("ready\n")?;
    run.signal(Signal::INT)?;
    assert_eq!(run.finish(b"")?.code(9)?, "caught\n");
    host.nothing_left()
}

#[scenario(Here, LabMore)]
fn timing_prints_the_phases_of_a_start() -> Result<()> {
    let host = Host::tiny()?;
    let run = host.banger(&["vm", "run", "--rm", "--timing", "--image", "tiny", "--", "busybox", "true"])?;
    for span in ["boot", "configure", "guest: ", "total"] {
        assert!(run.stderr.contains(span), "no {span} in {}", run.stderr);
    }
    Ok(())
}
