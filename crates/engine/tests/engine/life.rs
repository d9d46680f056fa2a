//! A VM's lifecycle on each VMM.

use std::fs;

use anyhow::{Context, Result, ensure};
use banger_api::{ErrorKind, VmState, Vmm};
use libtest_mimic::Trial;

use crate::{
    consistency::boots,
    driver::{Command, copy_out, create, delete, exec, pause, result_of, resume, small, start, stop, vm},
    host::{Host, VMMS, run},
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    let on_each = VMMS.into_iter().flat_map(|vmm| {
        [
            trial(format!("life::a_vm_is_created_restarted_and_deleted::{vmm:?}"), move || {
                run(a_vm_is_created_restarted_and_deleted(vmm))
            }),
            trial(format!("life::a_vm_of_an_earlier_build_keeps_its_agents_port::{vmm:?}"), move || {
                a_vm_of_an_earlier_build_keeps_its_agents_port(vmm)
            }),
            trial(format!("life::paused_vms_can_be_stopped::{vmm:?}"), move || {
                run(paused_vms_can_be_stopped(vmm))
            }),
        ]
    });
    on_each.collect()
}

async fn a_vm_is_created_restarted_and_deleted(vmm: Vmm) -> Result<()> {
    let host = Host::new()?;
    let engine = host.open().await?;
    result_of(create(&engine, small("box", "tiny", vmm)?)).await?;
    let created = vm(&engine, "box")?;
    ensure!(created.state == VmState::Running && created.vmm == Some(vmm), "{created:?}");
    host.check_consistency()?;
    // The daemon refuses requests of these processes.
    for (role, pid) in host.processes_of_vms()? {
        ensure!(engine.vms.own_process(pid)?, "{role} {pid}");
    }
    ensure!(!engine.vms.own_process(std::process::id())?, "the test is no process of a VM");
    ensure!(exec(&engine, "box", &["sh", "-c", "echo $HOSTNAME"]).await? == "box\n");
    let copied = copy_out(&engine, "box", &host.path("tiny.tar").display().to_string()).await?;
    let tar = fs::read(host.path("tiny.tar"))?;
    ensure!(copied.windows(tar.len()).any(|window| window == tar), "the copy does not contain the file");

    result_of(stop(&engine, "box", 60)).await?;
    ensure!(vm(&engine, "box")?.state == VmState::Stopped);
    host.check_consistency()?;
    result_of(start(&engine, "box")).await?;
    ensure!(boots(&host, created.id.as_str())? == 2, "the work disk was replaced");

    let refused =
        result_of(delete(&engine, "box", false)).await.err().context("the deletion was not refused")?;
    ensure!(refused.kind == ErrorKind::Busy, "{refused}");
    result_of(delete(&engine, "box", true)).await?;
    host.check_nothing_left()
}

/// An agent of an earlier build listens on a port that any user of the guest could take; the daemon that starts now
/// must still find it.
fn a_vm_of_an_earlier_build_keeps_its_agents_port(vmm: Vmm) -> Result<()> {
    let mut host = Host::new()?;
    host.use_old_agent()?;
    let exec = || Command::Exec { vm: "box".to_owned(), argv: vec!["true".to_owned()] };
    host.send_ok(Command::CreateVm { name: "box".to_owned(), image: "tiny".to_owned(), vmm, start: true })?;
    let refused = host.send(exec())?.err().context("an agent of this build answered")?;
    ensure!(refused.message.contains("port 1000"), "{refused}");
    host.kill_daemon()?;
    let store = rusqlite::Connection::open(host.path("state/store.db"))?;
    let changed = store.execute("UPDATE vms SET handle = json_remove(handle, '$.agent_port')", [])?;
    ensure!(changed == 1);
    drop(store);
    host.send_ok(exec())?;
    host.check_consistency()
}

async fn paused_vms_can_be_stopped(vmm: Vmm) -> Result<()> {
    let host = Host::new()?;
    let engine = host.open().await?;
    result_of(create(&engine, small("box", "tiny", vmm)?)).await?;
    result_of(pause(&engine, "box")).await?;
    ensure!(vm(&engine, "box")?.state == VmState::Paused);
    host.check_consistency()?;
    let refused = exec(&engine, "box", &["true"]).await.err().context("the exec was not refused")?;
    ensure!(refused.to_string().contains("is paused"), "{refused}");
    result_of(resume(&engine, "box")).await?;
    exec(&engine, "box", &["true"]).await?;
    result_of(pause(&engine, "box")).await?;
    result_of(stop(&engine, "box", 60)).await?;
    ensure!(vm(&engine, "box")?.last_error.is_none());
    host.check_consistency()
}
