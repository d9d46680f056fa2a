//! A VM's lifecycle: every command, in any order and in parallel, and with a killed daemon.

use std::{fs, thread};

use anyhow::{Context, Result};
use banger_smoke::{Host, Running, Terminal, scenario, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// Creates a small VM of the image `tiny`, with more arguments.
fn create_vm(host: &Host, name: &str, args: &[&str]) -> Result<()> {
    let small =
        ["vm", "create", "--name", name, "--image", "tiny", "--memory", "256M", "--disk-size", "256M"];
    assert_eq!(host.ok(&[&small, args].concat())?, format!("{name}\n"));
    Ok(())
}

fn sh(host: &Host, vm: &str, script: &str) -> Result<String> {
    host.ok(&["vm", "exec", vm, "--", "/bin/busybox", "sh", "-c", script])
}

fn boot_id(host: &Host, vm: &str) -> Result<String> {
    sh(host, vm, "busybox cat /proc/sys/kernel/random/boot_id")
}

fn state(host: &Host, vm: &str) -> Result<Value> {
    Ok(host.json(&["vm", "show", vm])?["state"].clone())
}

fn kill_daemon(host: &Host) -> Result<()> {
    let pid = Pid::from_raw(host.daemon_pid()?).context("no pid")?;
    Ok(kill_process(pid, Signal::KILL)?)
}

#[scenario(Here, Lab)]
fn files_survive_stops_restarts_and_hardware_changes() -> Result<()> {
    let host = Host::tiny()?;
    create_vm(&host, "box", &["--no-start"])?;
    assert_eq!(state(&host, "box")?, "created");
    host.ok(&["vm", "set", "--vcpu", "2", "box"])?;
    host.ok(&["vm", "start", "box"])?;
    assert_eq!(sh(&host, "box", "busybox nproc")?, "2\n");
    // Neither file is synced.
    sh(&host, "box", "echo kept > /root/file; echo also > /file")?;
    host.banger(&["vm", "set", "--vcpu", "1", "box"])?.fails(1, &["box is running", "banger vm stop box"])?;
    host.ok(&["vm", "stop", "box"])?;
    host.banger(&["vm", "set", "--disk-size", "128M", "box"])?.fails(1, &["256M", "cannot shrink"])?;
    host.banger(&["vm", "set", "box"])?.fails(2, &["--disk-size"])?;
    host.ok(&["vm", "set", "--disk-size", "1.3G", "--memory", "300M", "box"])?;
    // The VM keeps its VMM until the user sets one.
    let ran_with = || Ok::<_, anyhow::Error>(host.json(&["vm", "show", "box"])?["ran_with"]["vmm"].clone());
    let vmm = ran_with()?.as_str().context("no VMM in ran_with")?.to_owned();
    host.ok(&["vm", "set", "--vmm", &vmm, "box"])?;
    assert_eq!(ran_with()?, Value::Null);
    host.ok(&["vm", "start", "box"])?;
    assert_eq!(sh(&host, "box", "busybox cat /root/file /file")?, "kept\nalso\n");
    let blocks: u64 =
        sh(&host, "box", "busybox df -k /root | busybox awk 'NR==2 {print $2}'")?.trim().parse()?;
    assert!(blocks > 1200 << 10, "/root has {blocks} KiB");
    let before = boot_id(&host, "box")?;
    host.ok(&["vm", "restart", "box"])?;
    assert_ne!(boot_id(&host, "box")?, before);
    assert_eq!(sh(&host, "box", "busybox cat /root/file")?, "kept\n");
    host.ok(&["vm", "stop", "--timeout", "30s", "box"])?;
    // The VM is already stopped.
    host.ok(&["vm", "stop", "box"])?;
    host.ok(&["vm", "kill", "box"])?;
    host.ok(&["vm", "delete", "box"])?;
    host.nothing_left()
}

#[scenario(Here, Lab)]
fn a_vm_is_paused_resumed_stopped_and_killed() -> Result<()> {
    let host = Host::tiny()?;
    create_vm(&host, "box", &[])?;
    let before = boot_id(&host, "box")?;
    host.ok(&["vm", "pause", "box"])?;
    host.ok(&["vm", "pause", "box"])?;
    assert_eq!(state(&host, "box")?, "paused");
    host.banger(&["vm", "exec", "box", "--", "true"])?.fails(125, &["paused", "banger vm resume box"])?;
    host.banger(&["vm", "start", "box"])?.fails(1, &["paused", "banger vm resume box"])?;
    kill_daemon(&host)?;
    assert_eq!(state(&host, "box")?, "paused");
    host.ok(&["vm", "resume", "box"])?;
    assert_eq!(boot_id(&host, "box")?, before);
    // A stop resumes a paused guest, so that it can shut down cleanly.
    sh(&host, "box", "echo kept > /root/file")?;
    host.ok(&["vm", "pause", "box"])?;
    host.ok(&["vm", "stop", "box"])?;
    host.banger(&["vm", "pause", "box"])?.fails(1, &["is not running", "banger vm start box"])?;
    host.ok(&["vm", "start", "box"])?;
    assert_eq!(sh(&host, "box", "busybox cat /root/file")?, "kept\n");
    host.banger(&["vm", "kill", "--signal", "STOP", "box"])?.fails(2, &["STOP", "TERM"])?;
    host.ok(&["vm", "kill", "--signal", "SIGTERM", "box"])?;
    let vm = host.json(&["vm", "show", "box"])?;
    assert_eq!((&vm["state"], &vm["last_error"]), (&json!("stopped"), &Value::Null));
    host.ok(&["vm", "start", "box"])?;
    host.banger(&["vm", "delete", "box"])?.fails(1, &["box is running", "banger vm delete --force box"])?;
    host.ok(&["vm", "delete", "--force", "box"])?;
    host.nothing_left()
}

#[scenario(Here, LabMore)]
fn killing_a_session_of_a_paused_vm_ends_only_its_program() -> Result<()> {
    let host = Host::tiny()?;
    create_vm(&host, "box", &[])?;
    for _ in 0..3 {
        let session = host.start(&["vm", "exec", "box", "--", "busybox", "sleep", "1000"])?;
        until("the session is open", || Ok(sh(&host, "box", "busybox ps")?.contains("sleep 1000")))?;
        host.ok(&["vm", "pause", "box"])?;
        session.signal(Signal::KILL)?;
        session.finish(b"")?;
        host.ok(&["vm", "resume", "box"])?;
        until("its program exited", || Ok(!sh(&host, "box", "busybox ps")?.contains("sleep 1000")))?;
    }
    Ok(())
}

#[scenario(Here, LabMore)]
fn commands_for_several_vms_skip_and_report_wrong_names() -> Result<()> {
    let host = Host::tiny()?;
    for name in ["one", "two", "three"] {
        create_vm(&host, name, &["--no-start"])?;
    }
    let id = host.json(&["vm", "show", "one"])?["id"].as_str().unwrap().to_owned();
    let set = host.banger(&["vm", "set", "--vcpu", "2", "thr", "one", "nope", &id[..9], "t"])?;
    assert_eq!(set.stdout, "three\none\n");
    set.fails(1, &["\"nope\"", "\"t\" could be any of the VMs two, three"])?;
    let dry = host.ok(&["vm", "prune", "--dry-run"])?;
    assert_eq!(dry.lines().count(), 4, "{dry}");
    host.banger(&["vm", "prune"])?.fails(2, &["--force"])?;
    host.ok(&["vm", "start", "two"])?;
    let mut prompt = Terminal::start(&host.command(&["vm", "prune"]), 30, 120)?;
    prompt.wait_for("Delete these VMs")?;
    prompt.send_keys("n\n")?;
    assert_eq!(prompt.wait()?.code(), Some(1));
    assert_eq!(host.ok(&["vm", "prune", "-f"])?, "one\nthree\n");
    assert_eq!(host.ok(&["ps", "-a", "-o", "json"])?.matches("\"name\"").count(), 1);
    assert_eq!(state(&host, "two")?, "running");
    Ok(())
}

#[scenario(Here, LabMore)]
fn parallel_commands_on_one_vm_are_queued_or_refused() -> Result<()> {
    let host = Host::tiny()?;
    create_vm(&host, "box", &["--no-start"])?;
    let first = host.start(&["vm", "start", "box"])?;
    host.until("it is starting", || Ok(state(&host, "box")? == "starting"))?;
    let busy = host.banger(&["vm", "delete", "box"])?;
    // The VM may have started in the meantime.
    busy.fails(1, &["banger vm delete --force box"])?;
    let again = host.start(&["vm", "start", "box"])?;
    first.finish(b"")?.success()?;
    again.finish(b"")?.success()?;
    let stop = host.start(&["vm", "stop", "box"])?;
    host.until("it is stopping", || Ok(state(&host, "box")? != "running"))?;
    // This runs after the stop, whenever that is.
    host.ok(&["vm", "start", "box"])?;
    stop.finish(b"")?.success()?;
    assert_eq!(state(&host, "box")?, "running");
    let (one, two) = thread::scope(|scope| {
        let restart = || host.banger(&["vm", "restart", "box"]);
        let (one, two) = (scope.spawn(restart), scope.spawn(|| host.banger(&["vm", "delete", "-f", "box"])));
        (one.join().unwrap(), two.join().unwrap())
    });
    // The deletion succeeds, whichever came first.
    one?;
    two?.success()?;
    host.nothing_left()
}

#[scenario(Here, LabMore)]
fn operations_are_listed_followed_and_cancelled() -> Result<()> {
    let host = Host::tiny()?;
    let run = host.start(&["vm", "run", "-d", "--name", "box", "--image", "tiny", "--memory", "256M"])?;
    let mut id = String::new();
    host.until("the operation has started", || {
        let operations = host.json(&["operations"])?;
        operations[0]["id"].as_str().unwrap_or_default().clone_into(&mut id);
        Ok(!id.is_empty())
    })?;
    // A detached start continues when its client is killed.
    run.signal(Signal::KILL)?;
    host.ok(&["operations", "--follow", &id[..8]])?;
    assert_eq!(state(&host, "box")?, "running");
    let all = host.json(&["operations", "-a"])?;
    let ended = all.as_array().unwrap().iter().find(|operation| operation["id"] == id.as_str()).unwrap();
    assert_eq!((&ended["kind"], &ended["state"]), (&json!("vm_run"), &json!("done")));
    host.banger(&["operations", "cancel", &id])?.fails(1, &["has already ended: done"])?;
    host.ok(&["vm", "stop", "box"])?;

    let start = host.start(&["vm", "start", "box"])?;
    host.until("it is starting", || Ok(state(&host, "box")? == "starting"))?;
    let operations = host.json(&["operations"])?;
    host.ok(&["operations", "cancel", operations[0]["id"].as_str().unwrap()])?;
    start.finish(b"")?.fails(1, &["cancelled"])?;
    assert_eq!(state(&host, "box")?, "stopped");
    host.ok(&["vm", "delete", "box"])?;
    host.nothing_left()
}

#[scenario(Here, Lab)]
fn the_next_daemon_adopts_the_vms_of_a_killed_one() -> Result<()> {
    let host = Host::tiny()?;
    for name in ["one", "two"] {
        create_vm(&host, name, &[])?;
    }
    let before = (boot_id(&host, "one")?, boot_id(&host, "two")?);
    kill_daemon(&host)?;
    assert_eq!((boot_id(&host, "one")?, boot_id(&host, "two")?), before);
    // A VMM's end is reported even if no daemon was watching, with the console's last lines.
    let pid = host.json(&["vm", "show", "two"])?["pid"].as_i64().unwrap();
    kill_daemon(&host)?;
    kill_process(Pid::from_raw(i32::try_from(pid)?).unwrap(), Signal::KILL)?;
    let two = host.json(&["vm", "show", "two"])?;
    assert_eq!(two["state"], "error");
    assert!(two["last_error"].as_str().unwrap().contains("while bangerd was not running"), "{two}");
    assert_eq!(boot_id(&host, "one")?, before.0);
    host.ok(&["vm", "start", "two"])?;
    assert_ne!(boot_id(&host, "two")?, before.1);
    Ok(())
}

#[scenario(Here)]
fn vms_are_reachable_without_the_login_session_that_started_them() -> Result<()> {
    let host = Host::tiny()?;
    create_vm(&host, "box", &[])?;
    let (daemon, boot) = (host.daemon_pid()?, boot_id(&host, "box")?);
    let in_cron_job = |args: &[&str]| {
        let mut command = host.command(args);
        command.env_remove("XDG_RUNTIME_DIR");
        Running::start(command, format!("banger {}, in a cron job", args.join(" ")))?.finish(b"")?.success()
    };
    assert_eq!(in_cron_job(&["ps", "-o", "json"])?, host.ok(&["ps", "-o", "json"])?);
    // A logout removes the session's directory.
    fs::remove_dir_all(host.path("run"))?;
    assert_eq!(in_cron_job(&["vm", "exec", "box", "--", "busybox", "echo", "hello"])?, "hello\n");
    assert_eq!(host.daemon_pid()?, daemon);
    // The next daemon reaches the VM too.
    kill_daemon(&host)?;
    assert_eq!(boot_id(&host, "box")?, boot);
    Ok(())
}

#[scenario(Here, LabMore)]
fn disks_of_a_missing_store_are_set_aside_and_not_deleted() -> Result<()> {
    let host = Host::tiny()?;
    create_vm(&host, "box", &[])?;
    sh(&host, "box", "echo precious > /root/file; busybox sync")?;
    host.ok(&["vm", "stop", "box"])?;
    let id = host.json(&["vm", "show", "box"])?["id"].as_str().unwrap().to_owned();
    host.ok(&["daemon", "stop"])?;
    let state = host.path("state/banger");
    fs::rename(state.join("store.db"), host.path("store.db"))?;
    assert_eq!(host.json(&["ps", "-a"])?, json!([]));
    let aside = fs::read_dir(&state)?.filter_map(|entry| Some(entry.ok()?.path()));
    let aside: Vec<_> = aside.filter(|path| path.to_string_lossy().contains("set-aside-")).collect();
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert!(aside[0].join("vms").join(id).join("work.ext4").exists());
    assert!(host.ok(&["doctor"])?.contains(&aside[0].display().to_string()));
    // Restoring the store restores everything.
    host.ok(&["daemon", "stop"])?;
    fs::rename(host.path("store.db"), state.join("store.db"))?;
    host.ok(&["vm", "start", "box"])?;
    assert_eq!(sh(&host, "box", "busybox cat /root/file")?, "precious\n");
    Ok(())
}
