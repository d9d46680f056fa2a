//! Makes the host agree with the store: when the daemon starts, and on request.
//!
//! At startup, the daemon serves no requests yet, so nothing here races with one. Later, each VM's owner checks its
//! VM, and directories without a row are removed only while no operation is running.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use banger_api::{ErrorKind, Id, OperationKind, StopVm, VmState};
use banger_vmm::VmmError;
use jiff::Timestamp;
use tokio::task::JoinSet;

use crate::{
    error::EngineError,
    files::remove_dir,
    layout::{OF_STORE, SET_ASIDE, VmDir},
    operation::{OnHangUp, Operations},
    resource::{ProcessRole, Resource},
    store::{Scope, VmRecord},
    vm::{self, Alive, Owners, Services, Vms},
};

/// Takes over what the last daemon left, and repairs the host later.
#[derive(Debug)]
pub(crate) struct Recovery {
    pub(crate) services: Arc<Services>,
    pub(crate) owners: Arc<Owners>,
    pub(crate) vms: Arc<Vms>,
    pub(crate) operations: Operations,
}

impl Recovery {
    /// Takes over the VMs that the last daemon left: adopts, stops, reverts or deletes each.
    pub(crate) async fn take_over(&self) -> Result<(), EngineError> {
        let began = Instant::now();
        set_aside_files_of_another_store(&self.services)?;
        let mut tasks = JoinSet::new();
        for record in self.services.store.vms()? {
            let (services, owners, vms) = (self.services.clone(), self.owners.clone(), self.vms.clone());
            tasks.spawn(async move {
                match take_over(&services, &record).await {
                    Ok(Taken::Gone) => {}
                    Ok(Taken::Up(alive) | Taken::Down(alive)) => owners.add(&record.id, alive),
                    Ok(Taken::Stopping(alive)) => {
                        owners.add(&record.id, alive);
                        finish_stop(&vms, &record);
                    }
                    Err(error) => {
                        tracing::error!(vm = %record.id, name = %record.name, %error, "cannot recover the VM");
                        owners.add(&record.id, Alive::default());
                    }
                }
            });
        }
        let vms = tasks.len();
        // A task fails only by a panic, which has been logged.
        while tasks.join_next().await.is_some() {}
        for found in sweep(&self.services)? {
            tracing::info!(found, "cleaned up");
        }
        tracing::info!(vms, took_ms = millis(began.elapsed()), "recovered the VMs of the last daemon");
        Ok(())
    }

    /// Repairs the host as startup does, while the daemon serves. Returns the problems found.
    pub(crate) async fn repair(&self) -> Result<Vec<String>, EngineError> {
        let mut found = Vec::new();
        for record in self.services.store.vms()? {
            let owners = self.owners.clone();
            let (id, name) = (record.id, record.name);
            let look = move |context| async move { owners.look(&id, &context).await };
            let mut looked =
                self.operations.start(OperationKind::VmLook, name.as_str(), OnHangUp::GoOn, look);
            while let Some(event) = looked.recv().await {
                match event {
                    banger_api::Event::Done { result, .. } => {
                        found.extend(serde_json::from_value::<Vec<String>>(result).unwrap_or_default());
                    }
                    // The VM was deleted meanwhile, and needs no check.
                    banger_api::Event::Error { error } if error.kind == ErrorKind::NotFound => {}
                    banger_api::Event::Error { error } => {
                        found.push(format!("cannot check VM {name}: {error}"));
                    }
                    _ => {}
                }
            }
        }
        match self.operations.while_idle(|| sweep(&self.services)) {
            Some(swept) => found.extend(swept?),
            None => found.push("an operation is running, so leftover files were not checked".to_owned()),
        }
        found.extend(end_strays(&self.services).await?);
        Ok(found)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Sets aside the files of another store: a new store, created after the user moved one away, has no rows for them.
/// They are moved to `set-aside-*`, not deleted: they may be the only copies. They move back when their store returns.
fn set_aside_files_of_another_store(services: &Services) -> Result<(), EngineError> {
    let state = &services.dirs.state;
    let mark = state.join("store.id");
    let own = services.store.id()?;
    let marked = match fs::read_to_string(&mark) {
        Ok(text) => Some(text.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(EngineError::file("read", &mark)(error)),
    };
    if marked.as_ref() == Some(&own) {
        return Ok(());
    }
    let of_nobody_known = marked.is_none() && services.store.is_empty()?;
    if marked.is_some() || of_nobody_known {
        let earlier = marked.unwrap_or_else(|| Timestamp::now().as_second().to_string());
        let aside = state.join(format!("{SET_ASIDE}{earlier}"));
        if move_kept(state, &aside)? {
            tracing::warn!(folder = %aside.display(), "moved the files of another store aside");
        }
        let back = state.join(format!("{SET_ASIDE}{own}"));
        if back.exists() && move_kept(&back, state)? {
            tracing::warn!(folder = %back.display(), "restored the files of this store");
            remove_dir(&back)?;
        }
    }
    let partial = mark.with_extension("partial");
    fs::write(&partial, format!("{own}\n")).map_err(EngineError::file("write", &partial))?;
    fs::rename(&partial, &mark).map_err(EngineError::file("write", &mark))
}

/// Moves the store's directories from `from` to `to`; returns false if all are empty.
fn move_kept(from: &Path, to: &Path) -> Result<bool, EngineError> {
    let full: Vec<_> = OF_STORE.into_iter().filter(|name| !is_empty(&from.join(name))).collect();
    if full.is_empty() {
        return Ok(false);
    }
    crate::dirs::private(to)?;
    for name in full {
        let (from, to) = (from.join(name), to.join(name));
        // rename(2) replaces an empty directory. With a full one it fails, and both stay.
        fs::rename(&from, &to).map_err(EngineError::file("move", from))?;
    }
    Ok(true)
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none())
}

/// Outcome of taking over a VM of the last daemon.
enum Taken {
    Gone,
    Down(Alive),
    Up(Alive),
    /// It runs, and must be stopped.
    Stopping(Alive),
}

/// Takes over one VM: adopts it if it runs and should, else releases its resources. Deletes a VM that no client
/// knows, or that was to be deleted at the end of its session.
async fn take_over(services: &Services, record: &VmRecord) -> Result<Taken, EngineError> {
    let VmRecord { id, name, .. } = record;
    // A session does not outlive the daemon that served it.
    if !record.acknowledged || record.rm {
        vm::revert(&services.store, id, Scope::Vm).await?;
        services.store.delete_vm(id)?;
        tracing::info!(vm = %id, %name, "deleted: its creation or its session ended with the last daemon");
        return Ok(Taken::Gone);
    }
    let adopted = match record.state {
        VmState::Running | VmState::Paused | VmState::Stopping => adopt(services, record).await?,
        _ => None,
    };
    match (record.state, adopted) {
        (VmState::Stopping, Some(alive)) => {
            tracing::info!(vm = %id, %name, "adopted; continuing its stop");
            return Ok(Taken::Stopping(alive));
        }
        (_, Some(alive)) => {
            tracing::info!(vm = %id, %name, "adopted");
            return Ok(Taken::Up(alive));
        }
        (VmState::Running | VmState::Paused, None) => {
            let (_, console) = vm::last_words(&VmDir::of(&services.dirs, id));
            let why = format!("it ended while bangerd was not running\n{}", console.join("\n"));
            went_down(services, record, Some(&why)).await?;
        }
        (VmState::Starting, None) => {
            went_down(services, record, Some("bangerd ended while the VM was being started")).await?;
        }
        // It ended, as requested.
        (VmState::Stopping, None) => went_down(services, record, None).await?,
        (VmState::Created | VmState::Stopped | VmState::Error, None) => {
            vm::revert(&services.store, id, Scope::Run).await?;
        }
    }
    Ok(Taken::Down(Alive::default()))
}

/// Continues a stop; no client waits for it.
fn finish_stop(vms: &Arc<Vms>, record: &VmRecord) {
    if let Err(error) = vms.stop(record.id.as_str(), StopVm::default()) {
        tracing::warn!(vm = %record.id, name = %record.name, %error, "cannot continue the stop");
    }
}

async fn went_down(services: &Services, record: &VmRecord, why: Option<&str>) -> Result<(), EngineError> {
    vm::revert(&services.store, &record.id, Scope::Run).await?;
    services.store.set_vm_down(&record.id, why)?;
    tracing::warn!(vm = %record.id, name = %record.name, why, "the VM is not running");
    Ok(())
}

/// Returns the processes of a VM that should run, if they are alive and the same. Processes are identified by pid and
/// start time; the VMM must also answer.
async fn adopt(services: &Services, record: &VmRecord) -> Result<Option<Alive>, EngineError> {
    let Some(handle) = &record.handle else { return Ok(None) };
    let mut alive = Alive::default();
    for row in services.store.journal_of(&record.id, Scope::Run)?.into_iter().rev() {
        let Resource::Process { role, pid: Some(pid), started: Some(started), .. } = row.resource else {
            continue;
        };
        match (vm::adopt(pid, started)?, role) {
            (Some(process), role) => alive.add(role, process),
            // Without it, only the guest's later output is lost.
            (None, ProcessRole::Console) => {}
            (None, _) => return Ok(None),
        }
    }
    let vmm_is_there = alive.vmm.as_ref().is_some_and(|vmm| vmm.pid == handle.pid);
    let answer = banger_vmm::control(crate::vmms::kind(handle.vmm)).answers(&handle.control).await;
    if let Err(error) = &answer {
        tracing::warn!(vm = %record.id, name = %record.name, %error, "its VMM does not answer");
    }
    Ok((vmm_is_there && is_adopted(&answer)).then_some(alive))
}

/// Returns whether to adopt a VMM with a live process after this answer. After a timeout it may only be slow, and
/// ending it would lose data that its guest has not synced.
fn is_adopted(answer: &Result<(), VmmError>) -> bool {
    matches!(answer, Ok(()) | Err(VmmError::Timeout { .. }))
}

/// Removes directories that belong to no row: those not published yet, and those left by a deletion. Returns what it
/// removed.
fn sweep(services: &Services) -> Result<Vec<String>, EngineError> {
    // Listed before the rows are read, so that a directory created meanwhile is not in the list.
    let there = |folder: PathBuf| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let state = &services.dirs.state;
    let [disks, images, kernels] = OF_STORE.map(|name| there(state.join(name)));
    let sockets = there(services.dirs.runtime.join("vms"));
    let mut vms: HashSet<String> = services.store.vms()?.into_iter().map(|vm| vm.id.into()).collect();
    let mut found = remove_unknown(disks, &vms);
    // A running VM that has no row still needs its sockets: they are its only connections.
    vms.extend(strays(services).into_iter().map(|(_, id)| id.into()));
    found.extend(remove_unknown(sockets, &vms));
    let known = services.store.images()?.into_iter().map(|image| image.id.into()).collect();
    found.extend(remove_unknown(images, &known));
    let known = services.store.kernels()?.into_iter().map(|kernel| kernel.id.into()).collect();
    found.extend(remove_unknown(kernels, &known));
    Ok(found)
}

fn remove_unknown(there: Vec<PathBuf>, known: &HashSet<String>) -> Vec<String> {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let unknown = there.into_iter().filter(|path| !known.contains(&name(path)));
    unknown
        .map(|path| match remove_dir(&path) {
            Ok(()) => format!("removed leftover {}", path.display()),
            Err(error) => format!("leftover {} was not removed: {error}", path.display()),
        })
        .collect()
}

/// Returns the processes of VMs that the store does not know, as pid and VM id.
fn strays(services: &Services) -> Vec<(u32, Id)> {
    let dirs = [services.dirs.runtime.join("vms"), services.dirs.state.join("vms")];
    let mut found = vm::of_dirs(&dirs);
    found.retain(|(_, id)| matches!(services.store.vm(id), Ok(None)));
    found
}

async fn end_strays(services: &Services) -> Result<Vec<String>, EngineError> {
    let mut found = Vec::new();
    for (pid, id) in strays(services) {
        vm::kill(pid).await?;
        found.push(format!("killed process {pid} of VM {id}, which is not in the store"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vmm_that_is_only_late_is_adopted() {
        let late = VmmError::Timeout { what: "qemu".to_owned(), limit: Duration::from_secs(30) };
        let wrong = VmmError::Protocol { what: "qemu", answer: "SSH-2.0".to_owned() };
        assert!(is_adopted(&Ok(())) && is_adopted(&Err(late)) && !is_adopted(&Err(wrong)));
    }
}
