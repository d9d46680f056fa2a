//! Measures commands of a VM's lifecycle against each other.

use std::{
    fs,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    measure::{compare, print_measurement, timed},
    stage::Stage,
};
use crate::{
    command::{check, find_program, say},
    project::Project,
};

/// Goals: maximum ratios to the other command's time, and milliseconds.
const START_GOAL: f64 = 1.10;
const STOP_GOAL: f64 = 0.5;
const DELETE_GOAL: f64 = 0.3;
const CREATES_GOAL: f64 = 2.6;
const LIST_GOAL: f64 = 2.0;
const ADOPT_GOAL: f64 = 1000.0;

/// Number of VMs for `vm list`.
const LISTED_VMS: usize = 200;

/// Number of running VMs that the daemon adopts.
const ADOPTED_VMS: usize = 10;

/// Number of VMs created in parallel.
const PARALLEL_VMS: usize = 4;

/// Image with only busybox; the agent is PID 1 in its guests.
pub(super) const TINY: &str = "tiny";

/// Imports the guests' image.
pub(super) fn import_tiny(stage: &Stage) -> Result<()> {
    let busybox = find_program("busybox").context("busybox is missing: run `cargo xtask setup`")?;
    let dir = stage.dir().join(TINY);
    fs::create_dir_all(dir.join("bin"))?;
    fs::copy(busybox, dir.join("bin/busybox"))?;
    std::os::unix::fs::symlink("busybox", dir.join("bin/sh"))?;
    let tar = dir.with_extension("tar");
    check(std::process::Command::new("tar").arg("-C").arg(&dir).arg("-cf").arg(&tar).arg("."))?;
    check(stage.banger(&["image", "import", TINY]).arg(tar).stdout(Stdio::null()))
}

fn create<'a>(name: &'a str, arguments: &[&'a str]) -> Vec<&'a str> {
    let hardware = ["--image", TINY, "--vcpu", "1", "--memory", "128M"];
    [&["vm", "create", "--name", name], hardware.as_slice(), arguments].concat()
}

/// Measures start, stop, delete and parallel creates.
pub(super) fn life(stage: &Stage, runs: usize) -> Result<()> {
    import_tiny(stage)?;
    stage.ok(&create("life", &[]))?;
    let start = || timed(&mut stage.banger(&["vm", "start", "life"]));
    let stop = || timed(&mut stage.banger(&["vm", "stop", "life"]));
    let stop_and_start = || stop().and_then(|_| start());
    compare("vm start / vm create", START_GOAL, runs, stop_and_start, || create_and_delete(stage))?;
    compare("vm stop / vm start", STOP_GOAL, runs, stop, start)?;
    let delete = || {
        stage.ok(&create("short", &[]))?;
        timed(&mut stage.banger(&["vm", "delete", "--force", "short"]))
    };
    compare("vm delete --force / vm start", DELETE_GOAL, runs, delete, stop_and_start)?;
    let several = || {
        let names: Vec<_> = (0..PARALLEL_VMS).map(|number| format!("several{number}")).collect();
        let start = Instant::now();
        let spawned: Vec<Child> = names
            .iter()
            .map(|name| Ok(stage.banger(&create(name, &[])).stdout(Stdio::null()).spawn()?))
            .collect::<Result<_>>()?;
        for mut child in spawned {
            ensure!(child.wait()?.success(), "one of several creates failed");
        }
        let elapsed = start.elapsed();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        stage.ok(&[&["vm", "delete", "--force"], names.as_slice()].concat())?;
        Ok(elapsed)
    };
    compare("4 x vm create / vm create", CREATES_GOAL, runs, several, || create_and_delete(stage))?;
    stage.ok(&["vm", "delete", "--force", "life"])
}

fn create_and_delete(stage: &Stage) -> Result<Duration> {
    let elapsed = timed(&mut stage.banger(&create("one", &[])))?;
    stage.ok(&["vm", "delete", "--force", "one"])?;
    Ok(elapsed)
}

/// Measures `vm list` with many stopped VMs and with none.
pub(super) fn list(project: &Project, empty: &Stage, runs: usize) -> Result<()> {
    let full = Stage::new(project)?;
    import_tiny(&full)?;
    say(format!("creating {LISTED_VMS} VMs to list"));
    for number in 0..LISTED_VMS {
        full.ok(&create(&format!("listed{number}"), &["--no-start"]))?;
    }
    let list = |stage: &Stage| timed(&mut stage.banger(&["vm", "list"]));
    compare("vm list of 200 / of none", LIST_GOAL, runs, || list(&full), || list(empty))
}

/// Measures how long a restarted daemon takes to adopt running VMs, as its log reports.
pub(super) fn adopt(stage: &Stage) -> Result<()> {
    import_tiny(stage)?;
    let names: Vec<_> = (0..ADOPTED_VMS).map(|number| format!("adopted{number}")).collect();
    for name in &names {
        stage.ok(&create(name, &[]))?;
    }
    stage.ok(&["daemon", "restart"])?;
    let status = stage.json(&["daemon", "status"])?;
    let log = fs::read_to_string(status["log"].as_str().context("no log in the daemon's status")?)?;
    let lines = log.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let reported = lines.map(|line| line["fields"].clone()).find(|fields| fields["took_ms"].is_number());
    let reported = reported.context("the daemon's log has no took_ms")?;
    ensure!(
        reported["vms"] == ADOPTED_VMS && status["running_vms"] == ADOPTED_VMS,
        "not all VMs were adopted: {reported}"
    );
    print_measurement(
        "daemon, adopting 10 VMs, ms",
        reported["took_ms"].as_f64().unwrap_or(f64::MAX),
        ADOPT_GOAL,
    );
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    stage.ok(&[&["vm", "delete", "--force"], names.as_slice()].concat())
}
