//! Watching a VM: its logs, resource usage and events.

use std::fs;

use anyhow::{Context, Result};
use banger_smoke::{Host, Terminal, scenario};
use serde_json::Value;

/// Creates a small VM of the image `tiny`.
fn create_vm(host: &Host, name: &str) -> Result<()> {
    let small =
        ["vm", "create", "--name", name, "--image", "tiny", "--memory", "256M", "--disk-size", "256M"];
    assert_eq!(host.ok(&small)?, format!("{name}\n"));
    Ok(())
}

fn sh(host: &Host, vm: &str, script: &str) -> Result<String> {
    host.ok(&["vm", "exec", vm, "--", "/bin/busybox", "sh", "-c", script])
}

/// Parses lines of JSON.
fn lines(text: &str) -> Result<Vec<Value>> {
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

#[scenario(Here, LabMore)]
fn logs_are_filtered_and_followed_until_the_vm_stops() -> Result<()> {
    let host = Host::tiny()?;
    create_vm(&host, "box")?;
    sh(&host, "box", "echo hello-$((40 + 2)) > /dev/console; echo banger-agent: so > /dev/console")?;
    let logs = |args: &[&str]| host.ok(&[&["vm", "logs", "box"], args].concat());
    host.start(&["vm", "logs", "-f", "--agent", "box"])?.wait_for_stdout("banger-agent: so\r\n")?;
    assert_eq!(logs(&["--agent"])?, "banger-agent: so\r\n");
    assert!(logs(&["--console"])?.contains("hello-42"));
    assert_eq!(logs(&["-n", "1"])?, "banger-agent: so\r\n");
    assert!(logs(&["--since", "5m"])?.contains("hello-42"));
    assert_eq!(logs(&["--since", "2100-01-01T00:00:00Z"])?, "");
    logs(&["--vmm"])?;
    let daemon_log = lines(&logs(&["--daemon"])?)?;
    assert!(daemon_log.iter().any(|line| line["fields"]["role"] == "VMM"), "{daemon_log:?}");
    host.banger(&["vm", "logs", "box", "--vmm", "--agent"])?.fails(2, &["--vmm", "--agent"])?;

    // Two followers read; a third does not, and must not block the others.
    let follow = || host.start(&["vm", "logs", "-f", "-n", "1", "box"]);
    let (mut one, mut two, idle) = (follow()?, follow()?, follow()?);
    for follower in [&mut one, &mut two] {
        follower.wait_for_stdout("banger-agent: so")?;
    }
    sh(&host, "box", "echo later-$((40 + 3)) > /dev/console")?;
    for follower in [&mut one, &mut two] {
        follower.wait_for_stdout("later-43")?;
    }
    host.ok(&["vm", "stop", "box"])?;
    for follower in [one, two, idle] {
        follower.finish(b"")?.success()?;
    }
    // Following a stopped VM ends at once.
    assert!(logs(&["-f"])?.contains("later-43"));
    Ok(())
}

#[scenario(Here, LabMore)]
fn the_log_of_a_flooded_console_stays_small() -> Result<()> {
    let host = Host::tiny()?;
    create_vm(&host, "box")?;
    // More than is kept, so that the log rotates while it is followed. Firecracker's serial port costs the guest an
    // exit for each byte, which takes minutes if its host is emulated too: write less there.
    let is_slow = host.json(&["vm", "show", "box"])?["vmm"] == "firecracker";
    let (flood, minimum) = if is_slow { (10_000, 10_000) } else { (2_300_000, 1 << 20) };
    let mut follower = host.start(&["vm", "logs", "-f", "--agent", "box"])?;
    let flood = format!(
        "busybox yes 'all work and no play makes a dull guest' | busybox head -c {flood} > /dev/console; \
         echo banger-agent: the-end > /dev/console"
    );
    sh(&host, "box", &flood)?;
    follower.wait_for_stdout("the-end")?;
    let dir = fs::read_dir(host.path("state/banger/vms"))?.next().context("no VM")??.path();
    let mut kept = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("console") {
            kept += entry.metadata()?.len();
        }
    }
    assert!((minimum..=(2 << 20) + (64 << 10)).contains(&kept), "{kept} bytes of the console are kept");
    assert_eq!(host.ok(&["vm", "logs", "-n", "1", "box"])?, "banger-agent: the-end\r\n");
    host.ok(&["vm", "delete", "--force", "box"])?;
    follower.finish(b"")?.success()?;
    host.nothing_left()
}

#[scenario(Here, Lab)]
fn stats_report_a_vms_cpu_memory_and_disk_usage() -> Result<()> {
    let host = Host::tiny()?;
    assert_eq!(host.json(&["vm", "stats"])?, Value::Array(vec![]));
    create_vm(&host, "box")?;
    let stats = host.json(&["vm", "stats", "box"])?;
    let vm = &stats[0];
    assert_eq!((&vm["name"], &vm["state"]), (&"box".into(), &"running".into()));
    assert!(vm["cpu_percent"].as_f64().is_some_and(|percent| percent > 0.0), "{vm}");
    let resident = vm["resident"].as_u64().unwrap_or_default();
    assert!((32 << 20..1 << 30).contains(&resident), "its memory is counted exactly once: {vm}");
    for disk in vm["disks"].as_array().context("disks")? {
        assert!(disk["real"].as_u64() < disk["apparent"].as_u64(), "{vm}");
    }
    host.banger(&["vm", "stats", "box", "none"])?.fails(1, &["there is no VM \"none\""])?;
    let mut terminal = Terminal::start(&host.command(&["vm", "stats"]), 24, 120)?;
    terminal.wait_for("NAME")?;
    terminal.wait_for("box")?;
    // The table is redrawn in place.
    terminal.wait_for("\x1b[2A")?;
    terminal.send_keys("\x03")?;
    terminal.wait()?;
    host.ok(&["vm", "stop", "box"])?;
    let down = host.json(&["vm", "stats", "box"])?;
    assert_eq!((&down[0]["cpu_percent"], &down[0]["resident"]), (&Value::Null, &Value::Null));
    assert!(!host.json(&["vm", "show", "box"])?["last_used_at"].is_null());
    Ok(())
}

#[scenario(Here, LabMore)]
fn events_report_a_vms_states_in_order() -> Result<()> {
    let host = Host::tiny()?;
    let mut follower = host.start(&["events", "-f", "--since", "1h"])?;
    create_vm(&host, "box")?;
    host.ok(&["vm", "stop", "box"])?;
    host.ok(&["vm", "delete", "box"])?;
    let followed = follower.wait_for_stdout("\"kind\":\"vm_deleted\"")?;
    let events = host.ok(&["events"])?;
    assert!(events.contains(&followed[..followed.rfind('\n').unwrap_or(0)]), "{followed}\n{events}");
    let life: Vec<_> = lines(&events)?
        .iter()
        .filter(|event| event["name"] == "box")
        .map(|event| [&event["kind"], &event["to"]].map(|word| word.as_str().unwrap_or_default()).join(" "))
        .filter(|event| event.starts_with("vm_"))
        .collect();
    let expected = [
        "vm_created ",
        "vm_state starting",
        "vm_state running",
        "vm_state stopping",
        "vm_state stopped",
        "vm_deleted ",
    ];
    assert_eq!(life, expected);
    Ok(())
}

#[scenario(Here, LabMore)]
fn an_unused_vm_is_stopped_after_the_configured_time() -> Result<()> {
    let host = Host::tiny()?;
    fs::create_dir_all(host.path("config/banger"))?;
    fs::write(host.path("config/banger/config.toml"), "[daemon]\nauto_stop_stale_after = \"2s\"\n")?;
    host.ok(&["daemon", "restart"])?;
    let mut events = host.start(&["events", "-f", "--since", "1h"])?;
    create_vm(&host, "box")?;
    // A VM that is used for longer than the limit keeps running.
    sh(&host, "box", "busybox sleep 6")?;
    assert_eq!(host.json(&["vm", "show", "box"])?["state"], "running");
    let output = events.wait_for_stdout("\"to\":\"stopped\"")?;
    assert!(output.contains("\"kind\":\"vm_unused\""), "{output}");
    assert_eq!(host.json(&["vm", "show", "box"])?["state"], "stopped");
    Ok(())
}
