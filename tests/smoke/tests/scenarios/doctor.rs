//! Checks of the host and of the configuration, and requests that are refused before they start.

use std::{fs, io::Write, os::unix::net::UnixStream, process::Command};

use anyhow::Result;
use banger_smoke::{Finished, Host, Running, scenario, tar_of};
use serde_json::Value;

/// Returns the verdict of the check called `name`.
fn verdict<'a>(checks: &'a Value, name: &str) -> &'a str {
    let check = checks.as_array().and_then(|checks| checks.iter().find(|check| check["name"] == name));
    check.and_then(|check| check["verdict"].as_str()).unwrap_or("not checked")
}

/// Runs a shell script with `banger` as `$0`, in a mount namespace whose state directory is a file system of `size`.
fn run_on_small_disk(host: &Host, size: &str, script: &str, arguments: &[&str]) -> Result<Finished> {
    let script = format!("mount -t tmpfs -o size={size} none \"$XDG_STATE_HOME\"; {script}");
    let banger = host.command(&[]);
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]).arg(banger.get_program());
    command.args(arguments).envs(banger.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Running::start(command, script)?.finish(b"")
}

#[scenario(Here, Lab)]
fn doctor_passes_on_a_fresh_host_and_changes_nothing() -> Result<()> {
    let host = Host::bare()?;
    let checks = host.json(&["doctor"])?;
    assert_eq!((verdict(&checks, "store"), verdict(&checks, "daemon")), ("PASS", "PASS"));
    host.banger(&["daemon", "status"])?.fails(1, &["is not running"])?;
    for dir in ["state", "cache", "config", "run"] {
        assert_eq!(fs::read_dir(host.path(dir))?.count(), 0, "{dir}");
    }
    Ok(())
}

#[scenario(Here)]
fn a_user_without_subordinate_ids_is_shown_how_to_assign_them() -> Result<()> {
    let host = Host::new()?.of_ordinary_user()?;
    let expected = ["have no ids for this user", "usermod --add-subuids"];
    let doctor = host.ok(&["doctor"])?;
    assert!(doctor.contains("WARN   mmdebstrap"), "{doctor}");
    assert!(expected.iter().all(|part| doctor.contains(part)), "{doctor}");
    host.banger(&["vm", "run", "--", "true"])?.fails(125, &expected)?;
    Ok(())
}

#[scenario(Here, LabMore)]
fn a_corrupt_store_is_reported_and_not_changed() -> Result<()> {
    let host = Host::bare()?;
    let state = host.path("state/banger");
    fs::create_dir_all(&state)?;
    fs::write(state.join("store.db"), [0x5a; 8192])?;
    let doctor = host.banger(&["doctor"])?;
    let stdout = doctor.stdout.clone();
    doctor.code(1)?;
    assert!(stdout.contains("FAIL   store") && stdout.contains("aside"), "{stdout}");
    assert_eq!(fs::read(state.join("store.db"))?, [0x5a; 8192]);
    assert_eq!(fs::read_dir(&state)?.count(), 1);
    // The daemon reports the same error; it logs, and does not change the store.
    host.banger(&["ps"])?.fails(1, &["cannot be read", "aside"])?;
    assert_eq!(fs::read(state.join("store.db"))?, [0x5a; 8192]);
    fs::remove_file(state.join("store.db"))?;
    Ok(())
}

#[scenario(Here, LabMore)]
fn configuration_mistakes_are_reported_and_the_daemon_keeps_running() -> Result<()> {
    let host = Host::bare()?;
    host.ok(&["ps"])?;
    let daemon = host.daemon_pid()?;
    let config = host.path("config/banger/config.toml");
    fs::create_dir_all(config.parent().unwrap())?;
    fs::write(&config, "[vm]\nvcpu = 2\nmemroy = \"4G\"\n")?;
    let expected = ["config.toml: unknown key vm.memroy on line 3: did you mean memory?"];
    host.banger(&["vm", "run", "--", "true"])?.fails(125, &expected)?;
    host.banger(&["config", "show"])?.fails(1, &expected)?;
    // An API client leaves fields out, for which the daemon reads the same file.
    let mut api = UnixStream::connect(host.path("state/banger/run/bangerd.sock"))?;
    api.write_all(b"POST /v1/vms HTTP/1.1\r\nhost: b\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}")?;
    let answer = std::io::read_to_string(api)?;
    assert!(answer.contains("unknown key vm.memroy"), "{answer}");
    assert_eq!(host.daemon_pid()?, daemon);
    fs::write(&config, "[vm]\nvcpu = 2\n")?;
    assert!(host.ok(&["config", "show"])?.contains("config.toml:2"));
    Ok(())
}

#[scenario(Here, LabMore)]
fn configuration_values_are_shown_with_their_source() -> Result<()> {
    let host = Host::bare()?;
    let (user, system) = (host.path("config/banger/config.toml"), host.path("system.toml"));
    fs::create_dir_all(user.parent().unwrap())?;
    fs::create_dir_all(host.path("repo/.git"))?;
    fs::create_dir_all(host.path("repo/a"))?;
    fs::write(&system, "[vm]\nvcpu = 4\ndisk_size = \"4G\"\n[network]\negress = \"none\"\n")?;
    fs::write(&user, "[vm]\nvcpu = 5\ndisk_size = \"5G\"\n[daemon]\nauto_stop_stale_after = \"2h\"\n")?;
    fs::write(host.path("repo/banger.toml"), "[vm]\nvcpu = 6\nmemory = \"600M\"\n")?;
    let run = |args: &[&str]| {
        let mut command = host.command(args);
        command.current_dir(host.path("repo/a")).env("BANGER_VCPU", "7");
        Running::start(command, "banger in a repository".to_owned())?.finish(b"")?.success()
    };
    let keys: Value = serde_json::from_str(&run(&["config", "show", "-o", "json"])?)?;
    let value_and_layer = |name: &str| {
        let key = keys.as_array().unwrap().iter().find(|key| key["key"] == name).unwrap();
        ["value", "layer"].map(|field| key[field].as_str().unwrap().to_owned())
    };
    assert_eq!(value_and_layer("vm.vcpu"), ["7", "environment"]);
    assert_eq!(value_and_layer("vm.memory"), ["600M", "project"]);
    assert_eq!(value_and_layer("vm.disk_size"), ["5G", "user"]);
    assert_eq!(value_and_layer("network.egress"), ["none", "system"]);
    assert_eq!(value_and_layer("vm.image"), ["debian-bookworm", "built in"]);
    assert_eq!(value_and_layer("daemon.auto_stop_stale_after"), ["2h", "user"]);
    let help = run(&["vm", "run", "-h"])?.split_whitespace().collect::<Vec<_>>().join(" ");
    for default in
        ["[default: 7 (BANGER_VCPU)]", "[default: 600M (banger.toml)]", "[default: 5G (config.toml)]"]
    {
        assert!(help.contains(default), "no {default} in {help}");
    }
    Ok(())
}

#[scenario(Here, Lab)]
fn requests_for_too_much_memory_or_disk_are_rejected_with_numbers() -> Result<()> {
    let host = Host::new()?;
    let run = host.banger(&["vm", "run", "--rm", "--memory", "900G", "--", "true"])?;
    run.fails(125, &["900G of memory requested; the host has", "available of"])?;
    host.nothing_left()?;
    let host = Host::bare()?;
    let tar = host.path("large.tar");
    tar_of(&tar, &[("large", &vec![7; 60 << 20])], &[])?;
    let script = "\"$0\" image import large \"$1\"; status=$?; \"$0\" daemon stop; exit $status";
    run_on_small_disk(&host, "300m", script, &[&tar.display().to_string()])?
        .fails(1, &["not enough space for the image", "a reserve of 256M", "free of 300M"])?;
    Ok(())
}

#[scenario(Here, LabMore)]
fn all_missing_resources_are_reported_together() -> Result<()> {
    let host = Host::bare()?;
    let script = "\"$0\" vm run --rm --memory 900G -- true; status=$?; \"$0\" daemon stop; exit $status";
    let stderr = run_on_small_disk(&host, "100m", script, &[])?.fails(125, &["for 2 reasons:"])?;
    assert!(stderr.contains("900G of memory requested") && stderr.contains("not enough space"), "{stderr}");
    assert!(!stderr.contains("fetching"), "{stderr}");
    Ok(())
}

#[scenario(Here, Lab)]
fn doctor_repairs_the_host_and_then_boots_a_vm() -> Result<()> {
    let host = Host::new()?;
    let checks = host.json(&["doctor", "--fix", "--boot"])?;
    assert_eq!((verdict(&checks, "repair"), verdict(&checks, "boot")), ("PASS", "PASS"));
    assert_eq!(verdict(&checks, "default image"), "PASS");
    // doctor checks what a command would use: here an image that does not exist.
    let mut doctor = host.command(&["doctor", "-q"]);
    doctor.env("BANGER_IMAGE", "no-such-image");
    let failing = Running::start(doctor, "doctor for another image".to_owned())?.finish(b"")?.code(1)?;
    assert!(failing.contains("default image"), "{failing}");
    host.nothing_left()
}
