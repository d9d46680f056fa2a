//! Failures: each ends with an error that a person can act on, and leaves nothing behind.

use std::{fs, process::Command, thread};

use anyhow::Result;
use banger_smoke::{HOSTILE_INIT, Host, Running, scenario, static_busybox, tar_of, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

#[scenario(Here)]
fn an_invalid_request_creates_no_vm() -> Result<()> {
    let host = Host::new()?;
    host.banger(&["vm", "run", "--vcpu", "0", "--", "true"])?.fails(2, &["--vcpu"])?;
    host.banger(&["vm", "run", "--name", "My_Box", "--", "true"])?.fails(2, &["'M' at position 1"])?;
    host.banger(&["vm", "run", "--memory", "lots", "--", "true"])?.fails(2, &["lots"])?;
    host.banger(&["vm", "run", "--image", "no-such-image", "--", "true"])?
        .fails(125, &["no-such-image", "image list"])?;
    host.banger(&["vm", "run", "--kernel", "no-such-kernel", "--", "true"])?
        .fails(125, &["no-such-kernel"])?;
    host.banger(&["vm", "show", "no-such-vm"])?.fails(1, &["no-such-vm"])?;
    host.nothing_left()
}

#[scenario(Here)]
fn parallel_runs_cannot_share_a_vm_name() -> Result<()> {
    let host = Host::tiny()?;
    let (one, two) = thread::scope(|scope| {
        let run = || host.banger(&["vm", "run", "-d", "--name", "same", "--image", "tiny"]);
        let (one, two) = (scope.spawn(run), scope.spawn(run));
        (one.join().unwrap(), two.join().unwrap())
    });
    let (won, lost): (Vec<_>, Vec<_>) = [one?, two?].into_iter().partition(|run| run.status.success());
    assert_eq!((won.len(), lost.len()), (1, 1));
    assert!(lost[0].stderr.contains("VM same already exists"), "{}", lost[0].stderr);
    assert_eq!(host.ok(&["vm", "exec", "same", "--", "busybox", "echo", "fine"])?, "fine\n");
    Ok(())
}

#[scenario(Here, Lab)]
fn a_crashed_init_is_reported_with_the_console() -> Result<()> {
    let host = Host::new()?;
    let tar = host.path("dies.tar");
    // A script, because busybox's `init` keeps running without an inittab.
    let script: &[u8] = b"#!/bin/sh\necho about to end\nexit 3\n";
    tar_of(
        &tar,
        &[("bin/busybox", &static_busybox()?), ("sbin/init", script)],
        &[("bin/sh", "/bin/busybox")],
    )?;
    host.ok(&["image", "import", "dies", &tar.display().to_string()])?;
    let run = host.banger(&["vm", "run", "--rm", "--image", "dies", "--", "/bin/busybox", "sleep", "60"])?;
    run.fails(125, &["Kernel panic", "Attempted to kill init"])?;
    host.nothing_left()
}

#[scenario(Here, LabMore)]
fn a_guest_that_breaks_the_protocol_is_reported_and_can_be_deleted() -> Result<()> {
    let host = Host::new()?;
    let tar = host.path("hostile.tar");
    tar_of(&tar, &[("sbin/init", HOSTILE_INIT), ("bin/busybox", &static_busybox()?)], &[])?;
    host.ok(&["image", "import", "hostile", &tar.display().to_string()])?;
    host.ok(&["vm", "run", "-d", "--name", "box", "--image", "hostile"])?;
    // This command ends the agent, perhaps before it can report the exit status.
    host.banger(&["vm", "exec", "box", "--", "/bin/busybox", "touch", "/turn"])?;
    host.start(&["vm", "logs", "-f", "box"])?.wait_for_stdout("hostile: turned")?;
    let exec = host.banger(&["vm", "exec", "box", "--", "/bin/busybox", "true"])?;
    exec.fails(125, &["does not follow the agent's protocol"])?;
    assert_eq!(host.ok(&["vm", "stop", "--timeout", "2s", "box"])?, "box\n");
    host.ok(&["vm", "delete", "box"])?;
    host.nothing_left()
}

#[scenario(Here)]
fn files_that_are_not_kernels_are_rejected() -> Result<()> {
    let host = Host::new()?;
    let file = host.path("kernel");
    for (bytes, reason) in [(&b""[..], "empty"), (&[0x5a; 100_000][..], "kernel")] {
        fs::write(&file, bytes)?;
        let import = host.banger(&["kernel", "import", "bad", "--image", &file.display().to_string()])?;
        import.fails(1, &[reason])?;
    }
    assert_eq!(host.json(&["kernel", "list"])?.as_array().map(Vec::len), Some(1));
    Ok(())
}

#[scenario(Here)]
fn a_truncated_tar_creates_no_image() -> Result<()> {
    let host = Host::new()?;
    let tar = host.path("cut.tar");
    tar_of(&tar, &[("bin/busybox", &static_busybox()?)], &[])?;
    let bytes = fs::read(&tar)?;
    fs::write(&tar, &bytes[..bytes.len() / 2])?;
    host.banger(&["image", "import", "cut", &tar.display().to_string()])?.fails(1, &["bin/busybox"])?;
    assert_eq!(host.json(&["image", "list"])?.as_array().map(Vec::len), Some(1));
    Ok(())
}

#[scenario(Here)]
fn an_upload_rejected_at_its_start_reports_the_reason() -> Result<()> {
    let host = Host::new()?;
    let import = host.start(&["image", "import", "bad", "-"])?.finish(&vec![0x5a; 50 << 20])?;
    import.fails(1, &["not a tar"])?;
    Ok(())
}

#[scenario(Here, Lab)]
fn ctrl_c_during_a_start_deletes_the_vm() -> Result<()> {
    let host = Host::new()?;
    let run = host.start(&["vm", "run", "--name", "box", "--", "true"])?;
    host.until("a VM exists", || Ok(host.json(&["ps", "-a"])? != json!([])))?;
    run.signal(Signal::INT)?;
    run.finish(b"")?.code(130)?;
    host.nothing_left()
}

#[scenario(Here, LabMore)]
fn vms_outlive_a_killed_daemon() -> Result<()> {
    let host = Host::tiny()?;
    host.ok(&["vm", "run", "-d", "--name", "box", "--image", "tiny"])?;
    let boot_id =
        || host.ok(&["vm", "exec", "box", "--", "busybox", "cat", "/proc/sys/kernel/random/boot_id"]);
    let before = boot_id()?;
    let daemon = Pid::from_raw(host.daemon_pid()?).unwrap();
    kill_process(daemon, Signal::KILL)?;
    assert_eq!(boot_id()?, before);
    host.ok(&["daemon", "restart"])?;
    assert_eq!(boot_id()?, before);
    Ok(())
}

#[scenario(Here)]
fn only_an_open_session_blocks_a_daemon_restart() -> Result<()> {
    let host = Host::tiny()?;
    host.ok(&["vm", "run", "-d", "--name", "box", "--image", "tiny", "--memory", "128M"])?;
    for _ in 0..20 {
        host.ok(&["vm", "exec", "box", "--", "busybox", "true"])?;
        host.ok(&["daemon", "restart"])?;
    }
    let sleeping = host.start(&["vm", "exec", "box", "--", "busybox", "sleep", "1000"])?;
    until("the session is open", || {
        Ok(host.ok(&["vm", "exec", "box", "--", "busybox", "ps"])?.contains("sleep 1000"))
    })?;
    host.banger(&["daemon", "restart"])?.fails(1, &["1 open session", "--force"])?;
    host.ok(&["daemon", "stop", "--force"])?;
    sleeping.finish(b"")?.fails(125, &["connection"])?;
    // The interrupted session has not started it again either.
    host.banger(&["daemon", "status"])?.fails(1, &["is not running"])?;
    Ok(())
}

#[scenario(Here)]
fn a_daemon_killed_during_vm_run_leaves_nothing() -> Result<()> {
    let host = Host::new()?;
    let run = host.start(&["vm", "run", "--rm", "--", "true"])?;
    host.until("a VM exists", || Ok(host.json(&["ps", "-a"])? != json!([])))?;
    let daemon = Pid::from_raw(host.daemon_pid()?).unwrap();
    kill_process(daemon, Signal::KILL)?;
    run.finish(b"")?.fails(125, &["bangerd"])?;
    host.nothing_left()
}

#[scenario(Here, Lab)]
fn a_vm_whose_guest_resets_itself_is_stopped() -> Result<()> {
    let host = Host::tiny()?;
    host.ok(&["vm", "run", "-d", "--name", "box", "--image", "tiny"])?;
    // The guest goes down during the session, which may or may not notice it first.
    host.banger(&["vm", "exec", "box", "--", "sh", "-c", "sync; echo b > /proc/sysrq-trigger"])?;
    host.until("the VM has stopped", || Ok(host.json(&["vm", "show", "box"])?["state"] != "running"))?;
    let vm = host.json(&["vm", "show", "box"])?;
    assert_eq!((&vm["state"], &vm["last_error"]), (&"stopped".into(), &serde_json::Value::Null));
    Ok(())
}

#[scenario(Here, Lab)]
fn a_killed_vmm_is_reported_and_the_vm_starts_again() -> Result<()> {
    let host = Host::tiny()?;
    host.ok(&["vm", "run", "-d", "--name", "box", "--image", "tiny"])?;
    let daemon = host.daemon_pid()?;
    let pid = host.json(&["vm", "show", "box"])?["pid"].as_i64().unwrap();
    kill_process(Pid::from_raw(i32::try_from(pid)?).unwrap(), Signal::KILL)?;
    host.until("the VM has stopped", || Ok(host.json(&["vm", "show", "box"])?["state"] != "running"))?;
    let vm = host.json(&["vm", "show", "box"])?;
    assert_eq!(vm["state"], "error");
    assert!(vm["last_error"].as_str().unwrap().contains("killed by signal 9"), "{vm}");
    assert_eq!(host.daemon_pid()?, daemon);
    host.ok(&["vm", "start", "box"])?;
    host.ok(&["vm", "exec", "box", "--", "busybox", "true"])?;
    Ok(())
}

#[scenario(Here)]
fn a_runtime_directory_that_is_a_symbolic_link_is_rejected() -> Result<()> {
    let host = Host::bare()?;
    fs::create_dir(host.path("elsewhere"))?;
    fs::create_dir_all(host.path("state/banger"))?;
    std::os::unix::fs::symlink(host.path("elsewhere"), host.path("state/banger/run"))?;
    host.banger(&["ps"])?.fails(1, &["symbolic link"])?;
    fs::remove_file(host.path("state/banger/run"))?;
    Ok(())
}

#[scenario(Here)]
fn vm_run_downloads_nothing_if_the_vmm_is_missing() -> Result<()> {
    let host = Host::bare()?;
    let programs = host.path("programs");
    fs::create_dir(&programs)?;
    for name in ["banger", "bangerd", "banger-agent"] {
        fs::hard_link(host.program(name), programs.join(name))
            .or_else(|_| fs::copy(host.program(name), programs.join(name)).map(drop))?;
    }
    let mut command = host.command(&["vm", "run", "--rm", "--vmm", "firecracker", "--", "true"]);
    command.env("PATH", host.path("nothing")).env("BANGER_BANGERD", programs.join("bangerd"));
    let run = Running::start(command, "banger vm run, with nothing on PATH".to_owned())?.finish(b"")?;
    let stderr = run.fails(125, &["firecracker cannot run a VM here: firecracker is not installed"])?;
    assert!(!stderr.contains("fetching"), "{stderr}");
    let mut stop = host.command(&["daemon", "stop"]);
    stop.env("BANGER_BANGERD", programs.join("bangerd"));
    Running::start(stop, "banger daemon stop".to_owned())?.finish(b"")?.success()?;
    Ok(())
}

#[scenario(Here)]
fn an_import_onto_a_full_disk_fails_and_leaves_no_files() -> Result<()> {
    let host = Host::bare()?;
    let tar = host.path("large.tar");
    tar_of(&tar, &[("large", &vec![7; 60 << 20])], &[])?;
    // The state directory is a file system of 32 MiB, in a mount namespace that only this daemon uses.
    let script = "mount -t tmpfs -o size=32m none \"$XDG_STATE_HOME\" && \"$0\" image import large \"$1\"; status=$?; \
                  find \"$XDG_STATE_HOME/banger/images\" -mindepth 1; \"$0\" image list -o json; exit $status";
    let banger = host.command(&[]);
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
        .arg(banger.get_program())
        .arg(&tar);
    command.envs(banger.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let import = Running::start(command, "an import onto a full disk".to_owned())?.finish(b"")?;
    assert_eq!(import.stdout.trim(), "[]", "{import:?}");
    import.fails(1, &["not enough space"])?;
    Ok(())
}

#[scenario(Here)]
fn the_vm_of_a_killed_vm_run_is_deleted() -> Result<()> {
    let host = Host::tiny()?;
    let mut run =
        host.start(&["vm", "run", "--rm", "--image", "tiny", "--", "sh", "-c", "echo ready; sleep 1000"])?;
    run.wait_for_stdout("ready\n")?;
    run.signal(Signal::KILL)?;
    run.finish(b"")?;
    host.until("no VM exists", || Ok(host.json(&["ps", "-a"])? == json!([])))?;
    host.nothing_left()
}
