//! Concurrent requests: for one VM, and for many.

use anyhow::{Context, Result, ensure};
use banger_api::{CreateVm, ErrorKind, Limits, VmState, Vmm};
use libtest_mimic::Trial;

use crate::{
    driver::{create, delete, kill, pause, result_of, small, start, stop, vm, vms},
    host::{Host, VMMS, run},
    trial,
    vmm::faults::{Fault, Phase},
};

/// Number of VMs created at the same time.
const VM_COUNT: usize = 100;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("concurrency::concurrent_creates_succeed_and_excess_memory_is_refused", || {
            run(concurrent_creates_succeed_and_excess_memory_is_refused())
        }),
        trial("concurrency::one_of_two_creates_with_the_same_name_is_refused", || {
            run(one_of_two_creates_with_the_same_name_is_refused())
        }),
    ];
    for vmm in VMMS {
        trials.extend([
            trial(format!("concurrency::a_second_start_waits_and_does_nothing::{vmm:?}"), move || {
                run(a_second_start_waits_and_does_nothing(vmm))
            }),
            trial(format!("concurrency::a_forced_delete_cancels_a_start::{vmm:?}"), move || {
                run(a_forced_delete_cancels_a_start(vmm))
            }),
            trial(format!("concurrency::a_stop_cancels_a_start::{vmm:?}"), move || {
                run(a_stop_cancels_a_start(vmm))
            }),
            trial(format!("concurrency::a_kill_ends_a_hung_stop::{vmm:?}"), move || {
                run(a_kill_ends_a_hung_stop(vmm))
            }),
        ]);
    }
    trials
}

/// The second start waits for the first, and then finds nothing to do.
async fn a_second_start_waits_and_does_nothing(vmm: Vmm) -> Result<()> {
    let host = Host::new()?;
    let engine = host.open().await?;
    result_of(create(&engine, CreateVm { no_start: true, ..small("box", "tiny", vmm)? })).await?;
    let (one, two) = tokio::join!(result_of(start(&engine, "box")), result_of(start(&engine, "box")));
    ensure!(one?["pid"] == two?["pid"], "the VM was started twice");
    host.check_consistency()
}

async fn a_forced_delete_cancels_a_start(vmm: Vmm) -> Result<()> {
    let host = Host::new()?;
    host.fault(Some((Phase::Boot, Fault::Hangs)))?;
    let hanging = host.hanging()?;
    let engine = host.open().await?;
    let created = create(&engine, small("box", "tiny", vmm)?)?;
    hanging.recv(&mut [0]).await?;
    let refused =
        result_of(delete(&engine, "box", false)).await.err().context("the deletion was not refused")?;
    ensure!(refused.kind == ErrorKind::Busy, "{refused:?}");
    result_of(delete(&engine, "box", true)).await?;
    let error = result_of(Ok(created)).await.err().context("the create did not fail")?;
    ensure!([ErrorKind::Cancelled, ErrorKind::NotFound].contains(&error.kind), "{error:?}");
    host.check_nothing_left()
}

async fn a_stop_cancels_a_start(vmm: Vmm) -> Result<()> {
    let host = Host::new()?;
    host.fault(Some((Phase::Configure, Fault::Hangs)))?;
    let hanging = host.hanging()?;
    let engine = host.open().await?;
    result_of(create(&engine, CreateVm { no_start: true, ..small("box", "tiny", vmm)? })).await?;
    let started = start(&engine, "box")?;
    hanging.recv(&mut [0]).await?;
    // This request waits for the start to end.
    let paused = pause(&engine, "box")?;
    result_of(stop(&engine, "box", 60)).await?;
    let error = result_of(Ok(started)).await.err().context("the start did not fail")?;
    ensure!(error.kind == ErrorKind::Cancelled, "{error:?}");
    let error = result_of(Ok(paused)).await.err().context("the pause did not fail")?;
    ensure!(error.kind == ErrorKind::NotRunning, "{error:?}");
    ensure!(vm(&engine, "box")?.state == VmState::Stopped);
    host.check_consistency()
}

async fn a_kill_ends_a_hung_stop(vmm: Vmm) -> Result<()> {
    let host = Host::new()?;
    host.fault(Some((Phase::Reset, Fault::Hangs)))?;
    let hanging = host.hanging()?;
    let engine = host.open().await?;
    result_of(create(&engine, small("box", "tiny", vmm)?)).await?;
    let stopped = stop(&engine, "box", 60)?;
    hanging.recv(&mut [0]).await?;
    result_of(kill(&engine, "box")).await?;
    result_of(Ok(stopped)).await?;
    ensure!(vm(&engine, "box")?.state == VmState::Stopped);
    host.check_consistency()
}

async fn one_of_two_creates_with_the_same_name_is_refused() -> Result<()> {
    let host = Host::new()?;
    let engine = host.open().await?;
    let one = || small("box", "tiny", Vmm::Firecracker);
    let (one, two) = (create(&engine, one()?), create(&engine, one()?));
    let (one, two) = tokio::join!(result_of(one), result_of(two));
    let errors: Vec<_> = [one, two].into_iter().filter_map(Result::err).collect();
    ensure!(errors.len() == 1 && errors[0].kind == ErrorKind::AlreadyExists, "{errors:?}");
    host.check_consistency()
}

/// Every second request asks for more memory than the host has, and is refused.
async fn concurrent_creates_succeed_and_excess_memory_is_refused() -> Result<()> {
    let host = Host::new()?;
    let engine = host.open().await?;
    let requests = (0..VM_COUNT).map(|number| {
        let request = small(&format!("box-{number}"), "tiny", Vmm::Firecracker)?;
        let memory = if number % 2 == 0 { request.memory } else { Some(Limits::MAX_MEMORY) };
        anyhow::Ok(create(&engine, CreateVm { memory, no_start: number % 4 == 0, ..request }))
    });
    let requests = requests.collect::<Result<Vec<_>>>()?;
    for (number, events) in requests.into_iter().enumerate() {
        match result_of(events).await {
            Ok(_) => ensure!(number % 2 == 0, "box-{number} got more memory than the host has"),
            Err(error) => ensure!(number % 2 == 1 && error.kind == ErrorKind::NoMemory, "{error:?}"),
        }
    }
    let created = vms(&engine)?;
    let running = created.iter().filter(|vm| vm.state == VmState::Running).count();
    ensure!(
        (created.len(), running) == (VM_COUNT / 2, VM_COUNT / 4),
        "{} VMs, {running} of them running",
        created.len()
    );
    host.check_consistency()?;
    let deleted: Vec<_> = created.iter().map(|vm| delete(&engine, vm.name.as_str(), true)).collect();
    for events in deleted {
        result_of(events).await?;
    }
    host.check_nothing_left()
}
