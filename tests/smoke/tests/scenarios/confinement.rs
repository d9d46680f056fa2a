//! What banger's processes on the host may do.

use std::fs;

use anyhow::{Context, Result, ensure};
use banger_smoke::{Host, scenario};
use rustix::process::{Pid, Signal, kill_process};

/// Checks that the processes of the running VM have no rights beyond those of their confinement.
fn processes_are_confined(host: &Host) -> Result<()> {
    let processes = host.vm_processes()?;
    ensure!(processes.iter().any(|(role, _)| role == "VMM"), "{processes:?}");
    for (role, pid) in processes {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        for line in
            ["NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000"]
        {
            // Only root has a bounding set to give up.
            let applies = !line.starts_with("CapBnd") || rustix::process::geteuid().is_root();
            // pasta confines itself, and has capabilities in its own namespaces.
            let applies = applies && !(role == "pasta" && line.starts_with("Cap"));
            ensure!(!applies || status.contains(line), "no {line} in the {role}'s {status}");
        }
        let environment = fs::read_to_string(format!("/proc/{pid}/environ"))?;
        let mut variables = environment.split_terminator('\0');
        let is_marker = |variable: &str| variable.starts_with("BANGER_PROCESS=");
        ensure!(variables.all(is_marker), "the environment of the {role}: {environment}");
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (_, rest) = stat.rsplit_once(')').context("no program name")?;
        let words: Vec<_> = rest.split_whitespace().collect();
        ensure!(words[3] == pid.to_string() && words[4] == "0", "the {role}'s session: {stat}");
    }
    Ok(())
}

#[scenario(Here, Lab, LabQemu)]
fn each_process_of_a_vm_is_confined_also_after_the_daemon_was_killed() -> Result<()> {
    let host = Host::tiny()?;
    host.ok(&["vm", "run", "-d", "--name", "box", "--image", "tiny", "--disk-size", "64M"])?;
    processes_are_confined(&host)?;
    kill_process(Pid::from_raw(host.daemon_pid()?).context("pid 0")?, Signal::KILL)?;
    host.ok(&["vm", "exec", "box", "--", "busybox", "true"])?;
    processes_are_confined(&host)?;
    host.ok(&["vm", "pause", "box"])?;
    host.ok(&["vm", "resume", "box"])?;
    // A confined e2fsck checks the disks.
    host.ok(&["vm", "stop", "box"])?;
    host.ok(&["vm", "set", "--disk-size", "128M", "box"])?;
    host.ok(&["vm", "start", "box"])?;
    processes_are_confined(&host)?;
    assert_eq!(host.ok(&["vm", "exec", "box", "--", "busybox", "echo", "fine"])?, "fine\n");
    Ok(())
}

#[scenario(Here, Lab)]
fn doctor_reports_the_confinement_of_each_kind_of_process() -> Result<()> {
    let checks = Host::bare()?.json(&["doctor"])?;
    let checks = checks.as_array().context("no checks")?;
    for kind in ["firecracker", "qemu", "vsock device", "KVM probe", "console logger", "e2fsck", "apt"] {
        let check = checks.iter().find(|check| check["name"] == format!("{kind} process"));
        let check = check.with_context(|| format!("no check of {kind}"))?;
        let message = check["message"].as_str().unwrap_or_default();
        // Kernels of the lab and of this machine have both.
        ensure!(check["verdict"] == "PASS" && message.contains("Landlock"), "{check}");
        ensure!(message.contains("no new privileges") && message.contains("seccomp"), "{check}");
    }
    Ok(())
}
