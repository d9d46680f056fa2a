//! Makes the host agree with the store: when the daemon starts, and on request.
//!
//! At startup, the daemon serves no requests yet, so nothing here races with one. Later, each VM's actor checks its
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
    dirs::create_durably,
    error::EngineError,
    files::{remove_dir, replace_durably, sync},
    layout::{SET_ASIDE_PREFIX, STORE_DIRS, VmDir},
    operation::{OnDisconnect, Operations},
    resource::{ProcessRole, Resource},
    store::{Scope, VmRecord},
    store_lock::Interruption,
    vm::{self, Actors, LiveProcess, Services, VmProcesses, Vms},
};

/// Takes over what the last daemon left, and repairs the host later.
#[derive(Debug)]
pub(crate) struct Recovery {
    pub(crate) services: Arc<Services>,
    pub(crate) actors: Arc<Actors>,
    pub(crate) vms: Arc<Vms>,
    pub(crate) operations: Operations,
    pub(crate) interruption: Interruption,
}

impl Recovery {
    /// Takes over the VMs that the last daemon left: adopts, stops, reverts or deletes each.
    pub(crate) async fn take_over(&self) -> Result<(), EngineError> {
        let began = Instant::now();
        set_aside_files_of_another_store(&self.services)?;
        let mut tasks = JoinSet::new();
        for record in self.services.store.vms()? {
            let (services, actors, vms) = (self.services.clone(), self.actors.clone(), self.vms.clone());
            tasks.spawn(async move {
                match take_over(&services, &record).await {
                    Ok(Takeover::Deleted) => {}
                    Ok(Takeover::Running(processes) | Takeover::Down(processes)) => actors.add(&record.id, processes),
                    Ok(Takeover::Stopping(processes)) => {
                        actors.add(&record.id, processes);
                        finish_stop(&vms, &record);
                    }
                    Err(error) => {
                        tracing::error!(vm = %record.id, name = %record.name, %error, "cannot recover the VM");
                        actors.add(&record.id, VmProcesses::default());
                    }
                }
            });
        }
        let vms = tasks.len();
        // A task fails only by a panic, which has been logged.
        while tasks.join_next().await.is_some() {}
        for found in clear_orphan_dirs(&self.services, self.interruption)? {
            tracing::info!(found, "cleaned up");
        }
        tracing::info!(vms, took_ms = millis(began.elapsed()), "recovered the VMs of the last daemon");
        Ok(())
    }

    /// Repairs the host as startup does, while the daemon serves. Returns the problems found.
    pub(crate) async fn repair(&self) -> Result<Vec<String>, EngineError> {
        let mut problems = Vec::new();
        for record in self.services.store.vms()? {
            let actors = self.actors.clone();
            let (id, name) = (record.id, record.name);
            let verify = move |context| async move { actors.verify(&id, &context).await };
            let mut events =
                self.operations.start(OperationKind::VmCheck, name.as_str(), OnDisconnect::Continue, verify);
            while let Some(event) = events.recv().await {
                match event {
                    banger_api::OperationEvent::Done { result, .. } => {
                        problems.extend(serde_json::from_value::<Vec<String>>(result).unwrap_or_default());
                    }
                    // The VM was deleted meanwhile, and needs no check.
                    banger_api::OperationEvent::Error { error } if error.kind == ErrorKind::NotFound => {}
                    banger_api::OperationEvent::Error { error } => {
                        problems.push(format!("cannot check VM {name}: {error}"));
                    }
                    _ => {}
                }
            }
        }
        match self.operations.run_if_idle(|| clear_orphan_dirs(&self.services, Interruption::None)) {
            Some(removed) => problems.extend(removed?),
            None => problems.push("an operation is running, so leftover files were not checked".to_owned()),
        }
        problems.extend(kill_orphans(&self.services).await?);
        Ok(problems)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Sets aside the files of another store: a new store, created after the user moved one away, has no rows for them.
/// They are moved to `set-aside-*`, not deleted: they may be the only copies. They move back when their store returns.
fn set_aside_files_of_another_store(services: &Services) -> Result<(), EngineError> {
    let state = &services.dirs.state;
    let id_file = state.join("store.id");
    let own = services.store.id()?;
    let recorded = match fs::read_to_string(&id_file) {
        // Anything else is no id: the file is damaged.
        Ok(text) => Some(text.trim().to_owned())
            .filter(|text| text.len() == own.len() && text.bytes().all(|byte| byte.is_ascii_hexdigit())),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => None,
        Err(error) => return Err(EngineError::file("read", &id_file)(error)),
    };
    if recorded.as_ref() == Some(&own) {
        return Ok(());
    }
    let is_unowned = recorded.is_none() && services.store.is_empty()?;
    if recorded.is_some() || is_unowned {
        let earlier = recorded.unwrap_or_else(|| Timestamp::now().as_second().to_string());
        let aside = state.join(format!("{SET_ASIDE_PREFIX}{earlier}"));
        if move_store_dirs(state, &aside)? {
            tracing::warn!(directory = %aside.display(), "moved the files of another store aside");
        }
        let back = state.join(format!("{SET_ASIDE_PREFIX}{own}"));
        if back.exists() && move_store_dirs(&back, state)? {
            tracing::warn!(directory = %back.display(), "restored the files of this store");
            remove_dir(&back)?;
        }
    }
    replace_durably(&id_file, &format!("{own}\n"))
}

/// Moves the store's directories from `from` to `to`; returns false if all are empty.
fn move_store_dirs(from: &Path, to: &Path) -> Result<bool, EngineError> {
    let non_empty: Vec<_> = STORE_DIRS.into_iter().filter(|name| !is_empty(&from.join(name))).collect();
    if non_empty.is_empty() {
        return Ok(false);
    }
    create_durably(to)?;
    for name in non_empty {
        let (from, to) = (from.join(name), to.join(name));
        // rename(2) replaces an empty directory. With a full one it fails, and both stay.
        fs::rename(&from, &to).map_err(EngineError::file("move", from))?;
    }
    // On the disk before `store.id` says whose the directories are.
    sync(from)?;
    sync(to)?;
    Ok(true)
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none())
}

/// Outcome of taking over a VM of the last daemon.
enum Takeover {
    Deleted,
    Down(VmProcesses),
    Running(VmProcesses),
    /// It runs, and must be stopped.
    Stopping(VmProcesses),
}

/// Takes over one VM: adopts it if it runs and should, else releases its resources. Deletes a VM that no client
/// knows, or that was to be deleted at the end of its session.
async fn take_over(services: &Services, record: &VmRecord) -> Result<Takeover, EngineError> {
    let VmRecord { id, name, .. } = record;
    // A session does not outlive the daemon that served it.
    if record.deleting || !record.acknowledged || record.rm {
        vm::finish_deletion(services, id).await?;
        tracing::info!(vm = %id, %name, "deleted: its deletion, creation or session ended with the last daemon");
        return Ok(Takeover::Deleted);
    }
    let adopted = match record.state {
        VmState::Running | VmState::Paused | VmState::Stopping => adopt(services, record).await?,
        _ => None,
    };
    match (record.state, adopted) {
        (VmState::Stopping, Some(processes)) => {
            tracing::info!(vm = %id, %name, "adopted; continuing its stop");
            return Ok(Takeover::Stopping(processes));
        }
        (_, Some(processes)) => {
            tracing::info!(vm = %id, %name, "adopted");
            return Ok(Takeover::Running(processes));
        }
        (VmState::Running | VmState::Paused, None) => {
            let (_, console) = vm::console_tail(&VmDir::new(&services.dirs, id));
            let why = format!("it ended while bangerd was not running\n{}", console.join("\n"));
            record_down(services, record, Some(&why)).await?;
        }
        (VmState::Starting, None) => {
            record_down(services, record, Some("bangerd ended while the VM was being started")).await?;
        }
        // It ended, as requested.
        (VmState::Stopping, None) => record_down(services, record, None).await?,
        (VmState::Created | VmState::Stopped | VmState::Error, None) => {
            vm::revert(&services.store, id, Scope::Run).await?;
        }
    }
    Ok(Takeover::Down(VmProcesses::default()))
}

/// Continues a stop; no client waits for it.
fn finish_stop(vms: &Arc<Vms>, record: &VmRecord) {
    if let Err(error) = vms.stop(record.id.as_str(), StopVm::default()) {
        tracing::warn!(vm = %record.id, name = %record.name, %error, "cannot continue the stop");
    }
}

async fn record_down(services: &Services, record: &VmRecord, why: Option<&str>) -> Result<(), EngineError> {
    vm::revert(&services.store, &record.id, Scope::Run).await?;
    services.store.set_vm_down(&record.id, why)?;
    tracing::warn!(vm = %record.id, name = %record.name, why, "the VM is not running");
    Ok(())
}

/// Returns the processes of a VM that should run, if they are alive and the same. The VMM must also answer.
async fn adopt(services: &Services, record: &VmRecord) -> Result<Option<VmProcesses>, EngineError> {
    let Some(handle) = &record.handle else { return Ok(None) };
    let mut processes = VmProcesses::default();
    for row in services.store.journal_of(&record.id, Scope::Run)?.into_iter().rev() {
        let Resource::Process { role, id: Some(id), .. } = row.resource else { continue };
        match (vm::adopt(&id)?, role) {
            (Some(process), role) => processes.add(role, process),
            // Without it, only the guest's later output is lost.
            (None, ProcessRole::Console) => {}
            // The VM runs on without a network.
            (None, ProcessRole::Pasta | ProcessRole::Gateway) => {
                let why = format!("none: its {role} ended; restart the VM to connect it again");
                services.store.set_vm_network(&record.id, &why)?;
            }
            (None, _) => return Ok(None),
        }
    }
    let vmm_matches = processes.vmm.as_ref().is_some_and(|vmm| vmm.pid == handle.pid);
    let answer = banger_vmm::control(crate::vmms::kind(handle.vmm)).ping(&handle.control).await;
    if let Err(error) = &answer {
        tracing::warn!(vm = %record.id, name = %record.name, %error, "its VMM does not answer");
    }
    Ok((vmm_matches && is_adopted(&answer)).then_some(processes))
}

/// Returns whether to adopt a VMM with a live process after this answer. After a timeout it may only be slow, and
/// ending it would lose data that its guest has not synced.
fn is_adopted(answer: &Result<(), VmmError>) -> bool {
    matches!(answer, Ok(()) | Err(VmmError::Timeout { .. }))
}

/// Clears directories that belong to no row: those not published yet, and those left by a deletion. After a power loss,
/// rows may be lost: then it sets complete directories aside, because they may be the only copies of a user's data,
/// unless the store says that they are deleted. Returns what it did.
fn clear_orphan_dirs(services: &Services, interruption: Interruption) -> Result<Vec<String>, EngineError> {
    // Listed before the rows are read, so that a directory created meanwhile is not in the list.
    let list = |dir: PathBuf| {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let state = &services.dirs.state;
    let [disks, images, kernels] = STORE_DIRS.map(|name| list(state.join(name)));
    let sockets = list(services.dirs.runtime.join("vms"));
    let mut vms: HashSet<String> = services.store.vms()?.into_iter().map(|vm| vm.id.into()).collect();
    let known_images = services.store.images()?.into_iter().map(|image| image.id.into()).collect();
    let known_kernels = services.store.kernels()?.into_iter().map(|kernel| kernel.id.into()).collect();
    let deleted = services.store.deleted_ids()?;
    let mut messages = Vec::new();
    for (paths, known) in [(disks, &vms), (images, &known_images), (kernels, &known_kernels)] {
        let (lost, garbage): (Vec<_>, Vec<_>) = unknown(paths, known).partition(|path| {
            let name = file_name(path);
            let is_complete = name.parse::<Id>().is_ok();
            interruption == Interruption::PowerLoss && is_complete && !deleted.contains(&name)
        });
        messages.extend(garbage.iter().map(|path| remove(path)));
        messages.extend(set_aside(state, &lost)?);
    }
    if interruption != Interruption::None {
        services.store.clear_deleted_ids()?;
    }
    // A running VM that has no row still needs its sockets: they are its only connections.
    vms.extend(orphan_processes(services)?.into_iter().map(|(_, id)| id.into()));
    messages.extend(unknown(sockets, &vms).map(|path| remove(&path)));
    Ok(messages)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn unknown(paths: Vec<PathBuf>, known: &HashSet<String>) -> impl Iterator<Item = PathBuf> {
    paths.into_iter().filter(|path| !known.contains(&file_name(path)))
}

fn remove(path: &Path) -> String {
    match remove_dir(path) {
        Ok(()) => format!("removed leftover {}", path.display()),
        Err(error) => format!("leftover {} was not removed: {error}", path.display()),
    }
}

/// Moves directories of VMs, images or kernels to a new directory beside theirs.
fn set_aside(state: &Path, paths: &[PathBuf]) -> Result<Vec<String>, EngineError> {
    let mut messages = Vec::new();
    for path in paths {
        let aside = state.join(format!("{SET_ASIDE_PREFIX}power-loss-{}", Timestamp::now().as_second()));
        let kind = path.parent().unwrap_or(path);
        let target = aside.join(file_name(kind));
        create_durably(&target)?;
        let to = target.join(file_name(path));
        fs::rename(path, &to).map_err(EngineError::file("move", path))?;
        sync(&target)?;
        sync(kind)?;
        messages.push(format!("moved {}, which is not in the store, to {}", path.display(), to.display()));
    }
    Ok(messages)
}

/// Returns the processes of VMs of this state directory that the store does not know: those of a store that was moved
/// away.
fn orphan_processes(services: &Services) -> Result<Vec<(LiveProcess, Id)>, EngineError> {
    let mut orphans = vm::processes_of(&services.dirs.state.join("vms"))?;
    orphans.retain(|(_, id)| matches!(services.store.vm(id), Ok(None)));
    Ok(orphans)
}

async fn kill_orphans(services: &Services) -> Result<Vec<String>, EngineError> {
    let mut messages = Vec::new();
    for (process, id) in orphan_processes(services)? {
        process.kill().await?;
        messages.push(format!("killed process {} of VM {id}, which is not in the store", process.pid));
    }
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vmm_is_adopted_after_a_timeout_but_not_after_an_invalid_answer() {
        let late = VmmError::Timeout { what: "qemu".to_owned(), limit: Duration::from_secs(30) };
        let wrong = VmmError::Protocol { what: "qemu", answer: "SSH-2.0".to_owned() };
        assert!(is_adopted(&Ok(())) && is_adopted(&Err(late)) && !is_adopted(&Err(wrong)));
    }
}
