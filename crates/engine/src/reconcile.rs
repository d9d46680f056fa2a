//! When the daemon starts: what the last one left is taken over, finished or undone.
//!
//! Runs before anything is served, so nothing here races with a request.

use std::{collections::HashSet, fs, path::Path, sync::Arc};

use banger_api::VmState;

use crate::{
    error::EngineError,
    host::Host,
    images,
    store::{Scope, VmRecord},
    vm::{self, Alive, Resource},
};

/// Brings the world in line with the store.
pub(crate) async fn reconcile(host: &Arc<Host>) -> Result<(), EngineError> {
    for record in host.store.vms()? {
        if let Err(error) = take_over(host, &record).await {
            tracing::error!(vm = %record.name, %error, "left as it is");
            host.own_vm(&record.id, Alive::default());
        }
    }
    let ids = |list: Vec<String>| list.into_iter().collect::<HashSet<_>>();
    let vms = ids(host.store.vms()?.into_iter().map(|vm| vm.id.into()).collect());
    sweep(&host.dirs.state.join("vms"), &vms);
    sweep(&host.dirs.runtime.join("vms"), &vms);
    sweep(
        &host.dirs.state.join("images"),
        &ids(host.store.images()?.into_iter().map(|image| image.id.into()).collect()),
    );
    sweep(
        &host.dirs.state.join("kernels"),
        &ids(host.store.kernels()?.into_iter().map(|kernel| kernel.id.into()).collect()),
    );
    Ok(())
}

/// One VM: adopted if it runs and should; else what it held is given back. What nobody was told of, or was to go with
/// its session, goes.
async fn take_over(host: &Arc<Host>, record: &VmRecord) -> Result<(), EngineError> {
    // A session does not outlive the daemon it ran through.
    if !record.acknowledged || record.rm {
        vm::revert(&host.store, &record.id, Scope::Vm).await?;
        host.store.delete_vm(&record.id)?;
        tracing::info!(vm = %record.name, "undone: its making, or its session, ended with the last daemon");
        return Ok(());
    }
    let mut alive = Alive::default();
    match record.state {
        VmState::Running | VmState::Paused => match adopt(host, record).await? {
            Some(adopted) => {
                tracing::info!(vm = %record.name, "adopted");
                alive = adopted;
            }
            None => went_down(host, record, "it ended while no bangerd was watching").await?,
        },
        VmState::Starting => went_down(host, record, "bangerd ended while it was being started").await?,
        VmState::Stopping => went_down(host, record, "bangerd ended while it was being stopped").await?,
        VmState::Created | VmState::Stopped | VmState::Error => {
            vm::revert(&host.store, &record.id, Scope::Run).await?
        }
    }
    host.own_vm(&record.id, alive);
    Ok(())
}

async fn went_down(host: &Host, record: &VmRecord, why: &str) -> Result<(), EngineError> {
    vm::revert(&host.store, &record.id, Scope::Run).await?;
    host.store.set_vm_down(&record.id, Some(why))?;
    tracing::warn!(vm = %record.name, why, "is down");
    Ok(())
}

/// The processes of a VM that should run, if they do and are those that were started: by pid and start time, and the
/// VMM by its answer.
async fn adopt(host: &Host, record: &VmRecord) -> Result<Option<Alive>, EngineError> {
    let Some(handle) = &record.handle else { return Ok(None) };
    let mut alive = Alive::default();
    for row in host.store.journal_of(&record.id, Scope::Run)?.into_iter().rev() {
        let Resource::Process { role, pid: Some(pid), started: Some(started), .. } = row.resource else {
            continue;
        };
        match (vm::adopt(&role, pid, started)?, role.as_str()) {
            (process, "console") => alive.console = process,
            (Some(process), _) => alive.needed.push(process),
            (None, _) => return Ok(None),
        }
    }
    let vmm_is_there = alive.needed.last().is_some_and(|vmm| vmm.pid == handle.pid);
    let answers = match host.vmms.of_kind(crate::vmms::kind(handle.vmm)).await {
        Ok(vmm) => vmm.answers(&handle.control).await.is_ok(),
        Err(error) => {
            // The program is gone from the disk; the process that was made of it is not.
            tracing::warn!(vm = %record.name, %error, "its VMM cannot be asked");
            true
        }
    };
    Ok((vmm_is_there && answers).then_some(alive))
}

/// Removes what is in `folder` and in no row: what was not published, or was deleted but for its files.
fn sweep(folder: &Path, known: &HashSet<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if !known.contains(entry.file_name().to_string_lossy().as_ref()) {
            let path = entry.path();
            match images::remove(&path) {
                Ok(()) => tracing::info!(path = %path.display(), "swept"),
                Err(error) => tracing::warn!(%error, "not swept"),
            }
        }
    }
}
