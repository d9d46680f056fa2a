//! Kills each process of a VM, with and without a running daemon.

use anyhow::{Context, Result, ensure};
use banger_api::Vmm;
use libtest_mimic::Trial;

use crate::{
    driver::Command,
    host::{Host, VMMS, kill},
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    let all = VMMS.into_iter().flat_map(|vmm| [(vmm, true), (vmm, false)]);
    let trials = all.flat_map(|(vmm, daemon_runs)| {
        let roles: &[&str] = match vmm {
            Vmm::Firecracker => &["console", "pasta", "gateway", "VMM"],
            Vmm::Qemu => &["console", "pasta", "gateway", "vsock device", "VMM"],
        };
        let daemon = if daemon_runs { "with_daemon" } else { "without_daemon" };
        roles.iter().map(move |role| {
            let name = format!("roles::{}::{daemon}::{vmm:?}", role.replace(' ', "_"));
            trial(name, move || {
                a_killed_process_ends_its_vm_unless_it_runs_on_without(vmm, role, daemon_runs)
            })
        })
    });
    trials.collect()
}

fn a_killed_process_ends_its_vm_unless_it_runs_on_without(
    vmm: Vmm,
    role: &str,
    daemon_runs: bool,
) -> Result<()> {
    let mut host = Host::new()?;
    let name = || "box".to_owned();
    host.send_ok(Command::CreateVm { name: name(), image: "tiny".to_owned(), vmm, start: true })?;
    let roles = host.processes_of_vms()?;
    let expected = if vmm == Vmm::Qemu { 5 } else { 4 };
    ensure!(roles.len() == expected, "{roles:?}");
    let pid = roles.iter().find(|(found, _)| found == role).context("no such process")?.1;
    if !daemon_runs {
        host.kill_daemon()?;
    }
    kill(pid)?;
    if ["console", "pasta", "gateway"].contains(&role) {
        // Further console output is lost, or the network; the VM keeps running.
        host.send_ok(Command::Exec { vm: name(), argv: vec!["true".to_owned()] })?;
        host.send_ok(Command::StopVm(name()))?;
    } else {
        let vm = host.send_ok(Command::VmEnded(name()))?;
        let why = vm["last_error"].as_str().unwrap_or_default();
        // A daemon that did not run at that time cannot know how the process ended.
        let text =
            if daemon_runs { format!("its {role} was killed by signal 9") } else { "ended".to_owned() };
        ensure!(vm["state"] == "error" && why.contains(&text), "{vm}");
    }
    host.check_consistency()?;
    host.send_ok(Command::StartVm(name()))?;
    host.send_ok(Command::Exec { vm: name(), argv: vec!["true".to_owned()] })?;
    host.check_consistency()
}
