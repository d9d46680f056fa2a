//! Measures banger's overhead as ratios of medians, which cancels out the machine's speed.

mod bare;
mod exec;
mod import;
mod life;
mod measure;
mod namespaces;
mod network;
mod pull;
mod stage;
mod workspace;

use std::process::Command;

use anyhow::{Result, ensure};

use crate::{programs, project::Project, setup, template};
use measure::{compare, print_measurement, timed};
use stage::Stage;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Number of measurements of each side
    #[arg(long, default_value_t = 7)]
    runs: usize,
    /// Benchmarks to run; all by default
    what: Vec<Benchmark>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Benchmark {
    /// `vm run --rm -- true`, compared with QEMU alone
    Run,
    /// `vm exec`, compared with the agent's protocol alone
    Exec,
    /// `vm ssh`, compared with `vm exec`
    Ssh,
    /// `ps`, compared with curl
    Ps,
    /// `image import`, compared with tar and mke2fs
    Import,
    /// `image pull`, compared with umoci, mke2fs and skopeo
    Pull,
    /// Start, stop, delete and parallel creates, compared with a start or a create
    Life,
    /// `vm list` of many VMs, compared with none
    List,
    /// The time that the daemon takes to adopt running VMs
    Adopt,
    /// A large repository into a VM and changes out of it, compared with a bare stream, git and `vm exec`
    Workspace,
    /// The daemon's memory, idle and for each VM
    Memory,
    /// A VM's network, compared with a bare tap, a direct resolver and a bare vsock stream; needs root
    Network,
}

/// Goals: maximum ratios to the bare command's time, and MiB.
const RUN_GOAL: f64 = 1.2;
const EXEC_GOAL: f64 = 3.0;
const SSH_GOAL: f64 = 3.0;
const PS_GOAL: f64 = 2.0;
const IMPORT_GOAL: f64 = 1.0 / 3.0;
const IDLE_GOAL: f64 = 30.0;
const VM_GOAL: f64 = 2.0;

/// Number of VMs for measuring the daemon's memory per VM.
const VMS: u8 = 3;

pub(crate) fn run(project: &Project, arguments: &Arguments) -> Result<()> {
    ensure!(arguments.runs > 0, "--runs must be at least 1");
    setup::run()?;
    programs::build(project, None)?;
    template::prepare(project)?;
    let stage = Stage::new(project)?;
    let is_selected = |what| arguments.what.is_empty() || arguments.what.contains(&what);
    let runs = arguments.runs;
    println!("{:36} {:>10} {:>10} {:>8} {:>8}", "", "banger", "bare", "ratio", "goal");
    // First, because later commands grow the daemon's memory.
    if is_selected(Benchmark::Memory) {
        memory(&stage)?;
    }
    if is_selected(Benchmark::Ps) {
        let socket = stage.socket()?;
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--fail", "--unix-socket"]).arg(&socket).arg("http://localhost/v1/vms");
        let ps = || timed(&mut stage.banger(&["ps"]));
        compare("ps / curl", PS_GOAL, runs, ps, || timed(&mut curl))?;
    }
    if is_selected(Benchmark::Exec) || is_selected(Benchmark::Ssh) || is_selected(Benchmark::Run) {
        stage.ok(&["vm", "run", "-d", "--name", "box"])?;
    }
    if is_selected(Benchmark::Exec) {
        let vsock = stage.vm_runtime("box")?.join("vsock.sock");
        let banger = || timed(&mut stage.banger(&["vm", "exec", "box", "--", "true"]));
        compare("vm exec / protocol", EXEC_GOAL, runs, banger, || exec::raw(&vsock))?;
    }
    if is_selected(Benchmark::Ssh) {
        let ssh = || timed(&mut stage.banger(&["vm", "ssh", "box", "--", "true"]));
        let exec = || timed(&mut stage.banger(&["vm", "exec", "box", "--", "true"]));
        compare("vm ssh / vm exec", SSH_GOAL, runs, ssh, exec)?;
    }
    if is_selected(Benchmark::Run) {
        let bare = bare::Bare::from_running(&stage, "box")?;
        let banger = || timed(&mut stage.banger(&["vm", "run", "--rm", "--", "true"]));
        compare("vm run --rm / QEMU", RUN_GOAL, runs, banger, || bare.boot())?;
    }
    if is_selected(Benchmark::Life) {
        life::life(&stage, runs)?;
    }
    if is_selected(Benchmark::List) {
        life::list(project, &Stage::new(project)?, runs)?;
    }
    if is_selected(Benchmark::Adopt) {
        life::adopt(&Stage::new(project)?)?;
    }
    if is_selected(Benchmark::Workspace) {
        workspace::workspace(&Stage::new(project)?, runs)?;
    }
    if is_selected(Benchmark::Network) {
        network::network(project, runs)?;
    }
    if is_selected(Benchmark::Pull) {
        pull::pull(project, &Stage::new(project)?, runs)?;
    }
    if is_selected(Benchmark::Import) {
        let tar = import::tar(project)?;
        let banger = || import::banger(&stage, &tar);
        compare("image import / tar + mke2fs", IMPORT_GOAL, runs, banger, || import::bare(project, &tar))?;
    }
    Ok(())
}

fn memory(stage: &Stage) -> Result<()> {
    stage.ok(&["ps"])?;
    let idle = stage.daemon_memory()?;
    print_measurement("daemon, idle, MiB", idle, IDLE_GOAL);
    for number in 0..VMS {
        stage.ok(&["vm", "run", "-d", "--name", &format!("memory{number}")])?;
    }
    print_measurement("daemon, for each VM, MiB", (stage.daemon_memory()? - idle) / f64::from(VMS), VM_GOAL);
    for number in 0..VMS {
        stage.ok(&["vm", "delete", "--force", &format!("memory{number}")])?;
    }
    Ok(())
}
