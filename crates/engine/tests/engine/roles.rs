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
    let trials = all.flat_map(|(vmm, watched)| {
        let roles: &[&str] = match vmm {
            Vmm::Firecracker => &["console", "VMM"],
            Vmm::Qemu => &["console", "vsock device", "VMM"],
        };
        let how = if watched { "watched" } else { "unwatched" };
        roles.iter().map(move |role| {
            let name = format!("roles::{}::{how}::{vmm:?}", role.replace(' ', "_"));
            trial(name, move || a_process_is_killed(vmm, role, watched))
        })
    });
    trials.collect()
}

fn a_process_is_killed(vmm: Vmm, role: &str, watched: bool) -> Result<()> {
    let mut host = Host::new()?;
    let name = || "box".to_owned();
    host.send_ok(Command::CreateVm { name: name(), image: "tiny".to_owned(), vmm, start: true })?;
    let roles = host.processes_of_vms()?;
    let expected = if vmm == Vmm::Qemu { 3 } else { 2 };
    ensure!(roles.len() == expected, "{roles:?}");
    let pid = roles.iter().find(|(of, _)| of == role).context("no such process")?.1;
    if !watched {
        host.kill_daemon()?;
    }
    kill(pid)?;
    if role == "console" {
        // Further console output is lost; the VM keeps running.
        host.send_ok(Command::Exec { vm: name(), argv: vec!["true".to_owned()] })?;
        host.send_ok(Command::StopVm(name()))?;
    } else {
        let vm = host.send_ok(Command::VmEnded(name()))?;
        let why = vm["last_error"].as_str().unwrap_or_default();
        // A daemon that did not run at that time cannot know how the process ended.
        let text = if watched { format!("its {role} was killed by signal 9") } else { "ended".to_owned() };
        ensure!(vm["state"] == "error" && why.contains(&text), "{vm}");
    }
    host.check_consistency()?;
    host.send_ok(Command::StartVm(name()))?;
    host.send_ok(Command::Exec { vm: name(), argv: vec!["true".to_owned()] })?;
    host.check_consistency()
}
