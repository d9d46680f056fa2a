//! Concurrent requests: for one VM, and for many.

use anyhow::{Context, Result, ensure};
use banger_api::{CreateVm, ErrorKind, Limits, VmState, Vmm};
use libtest_mimic::Trial;

use crate::{
    driver::{create, delete, ended, kill, pause, small, start, stop, vm, vms},
    host::{Host, VMMS, run},
    trial,
    vmm::faults::{Fault, Phase},
};

/// Number of VMs created at the same time.
const VM_COUNT: usize = 100;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("concurrency::many_creates_at_once", || run(many_creates_at_once())),
        trial("concurrency::two_creates_of_one_name", || run(two_creates_of_one_name())),
    ];
    for vmm in VMMS {
        trials.extend([
            trial(format!("concurrency::two_starts::{vmm:?}"), move || run(two_starts(vmm))),
            trial(format!("concurrency::delete_while_starting::{vmm:?}"), move || {
                run(delete_while_starting(vmm))
            }),
            trial(format!("concurrency::stop_while_starting::{vmm:?}"), move || {
                run(stop_while_starting(vmm))
            }),
            trial(format!("concurrency::kill_while_stopping::{vmm:?}"), move || {
                run(kill_while_stopping(vmm))
            }),
        ]);
    }
    trials
}

/// The second start waits for the first, and then finds nothing to do.
async fn two_starts(vmm: Vmm) -> Result<()> {
    let host = Host::new()?;
    let engine = host.open().await?;
    ended(create(&engine, CreateVm { no_start: true, ..small("box", "tiny", vmm)? })).await?;
    let (one, two) = tokio::join!(ended(start(&engine, "box")), ended(start(&engine, "box")));
    ensure!(one?["pid"] == two?["pid"], "it was started twice");
    host.check_consistency()
}

async fn delete_while_starting(vmm: Vmm) -> Result<()> {
    let host = Host::new()?;
    host.fault(Some((Phase::Boot, Fault::Hangs)))?;
    let hanging = host.hanging()?;
    let engine = host.open().await?;
    let created = create(&engine, small("box", "tiny", vmm)?)?;
    hanging.recv(&mut [0]).await?;
    let refused = ended(delete(&engine, "box", false)).await.err().context("it was deleted")?;
    ensure!(refused.kind == ErrorKind::Busy, "{refused:?}");
    ended(delete(&engine, "box", true)).await?;
    let error = ended(Ok(created)).await.err().context("it was created")?;
    ensure!([ErrorKind::Cancelled, ErrorKind::NotFound].contains(&error.kind), "{error:?}");
    host.check_nothing_left()
}

async fn stop_while_starting(vmm: Vmm) -> Result<()> {
    let host = Host::new()?;
    host.fault(Some((Phase::Configure, Fault::Hangs)))?;
    let hanging = host.hanging()?;
    let engine = host.open().await?;
    ended(create(&engine, CreateVm { no_start: true, ..small("box", "tiny", vmm)? })).await?;
    let started = start(&engine, "box")?;
    hanging.recv(&mut [0]).await?;
    // This request waits for the start to end.
    let paused = pause(&engine, "box")?;
    ended(stop(&engine, "box", 60)).await?;
    let error = ended(Ok(started)).await.err().context("it was started")?;
    ensure!(error.kind == ErrorKind::Cancelled, "{error:?}");
    let error = ended(Ok(paused)).await.err().context("it was paused")?;
    ensure!(error.kind == ErrorKind::NotRunning, "{error:?}");
    ensure!(vm(&engine, "box")?.state == VmState::Stopped);
    host.check_consistency()
}

async fn kill_while_stopping(vmm: Vmm) -> Result<()> {
    let host = Host::new()?;
    host.fault(Some((Phase::Reset, Fault::Hangs)))?;
    let hanging = host.hanging()?;
    let engine = host.open().await?;
    ended(create(&engine, small("box", "tiny", vmm)?)).await?;
    let stopped = stop(&engine, "box", 60)?;
    hanging.recv(&mut [0]).await?;
    ended(kill(&engine, "box")).await?;
    ended(Ok(stopped)).await?;
    ensure!(vm(&engine, "box")?.state == VmState::Stopped);
    host.check_consistency()
}

async fn two_creates_of_one_name() -> Result<()> {
    let host = Host::new()?;
    let engine = host.open().await?;
    let one = || small("box", "tiny", Vmm::Firecracker);
    let (one, two) = (create(&engine, one()?), create(&engine, one()?));
    let (one, two) = tokio::join!(ended(one), ended(two));
    let errors: Vec<_> = [one, two].into_iter().filter_map(Result::err).collect();
    ensure!(errors.len() == 1 && errors[0].kind == ErrorKind::AlreadyExists, "{errors:?}");
    host.check_consistency()
}

/// Every second request asks for more memory than the host has, and is refused.
async fn many_creates_at_once() -> Result<()> {
    let host = Host::new()?;
    let engine = host.open().await?;
    let requests = (0..VM_COUNT).map(|number| {
        let request = small(&format!("box-{number}"), "tiny", Vmm::Firecracker)?;
        let memory = if number % 2 == 0 { request.memory } else { Some(Limits::MAX_MEMORY) };
        anyhow::Ok(create(&engine, CreateVm { memory, no_start: number % 4 == 0, ..request }))
    });
    let requests = requests.collect::<Result<Vec<_>>>()?;
    for (number, events) in requests.into_iter().enumerate() {
        match ended(events).await {
            Ok(_) => ensure!(number % 2 == 0, "box-{number} has more memory than there is"),
            Err(error) => ensure!(number % 2 == 1 && error.kind == ErrorKind::NoMemory, "{error:?}"),
        }
    }
    let created = vms(&engine)?;
    let running = created.iter().filter(|vm| vm.state == VmState::Running).count();
    ensure!(
        (created.len(), running) == (VM_COUNT / 2, VM_COUNT / 4),
        "{} VMs, {running} of them run",
        created.len()
    );
    host.check_consistency()?;
    let deleted: Vec<_> = created.iter().map(|vm| delete(&engine, vm.name.as_str(), true)).collect();
    for events in deleted {
        ended(events).await?;
    }
    host.check_nothing_left()
}
