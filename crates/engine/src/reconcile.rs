//! Bringing the world in line with the store: when the daemon starts, and when somebody asks for it.
//!
//! At the start nothing is served yet, so that nothing here races with a request. Later each VM is looked at by its
//! owner, and what belongs to none only while nothing is under way.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use banger_api::{Defaults, Id, OperationKind, VmState};
use jiff::Timestamp;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use crate::{
    error::EngineError,
    host::Host,
    images,
    operation::OnHangUp,
    store::{Scope, VmRecord},
    vm::{self, Alive, Ask, Message, Resource},
};

/// How the names of folders begin in which lies what an earlier store spoke of.
pub(crate) const SET_ASIDE: &str = "set-aside-";

/// The folders in which what the store speaks of is kept.
const KEPT: [&str; 3] = ["vms", "images", "kernels"];

/// Takes over what the last daemon left: finishes or undoes it.
pub(crate) async fn reconcile(host: &Arc<Host>) -> Result<(), EngineError> {
    let began = Instant::now();
    set_aside_what_is_another_stores(host)?;
    let mut tasks = JoinSet::new();
    for record in host.store.vms()? {
        let host = host.clone();
        tasks.spawn(async move {
            if let Err(error) = take_over(&host, &record).await {
                tracing::error!(vm = %record.id, name = %record.name, %error, "left as it is");
                host.own_vm(&record.id, Alive::default());
            }
        });
    }
    let vms = tasks.len();
    // A task only fails by a panic, which has been logged.
    while tasks.join_next().await.is_some() {}
    for found in sweep(host)? {
        tracing::info!(found, "swept");
    }
    tracing::info!(vms, took_ms = millis(began.elapsed()), "took over what there was");
    Ok(())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Does what a start does, while the daemon serves, and says what was amiss.
pub(crate) async fn repair(host: &Arc<Host>) -> Result<Vec<String>, EngineError> {
    let (tell, mut told) = mpsc::unbounded_channel();
    for record in host.store.vms()? {
        let Some(owner) = host.owner_of(&record.id) else { continue };
        let look = Ask::Look(tell.clone());
        let ask = async move |context| {
            let (answer, answered) = oneshot::channel();
            // One that has gone since needs no look.
            if owner.send(Message { ask: look, context, answer }).await.is_err() {
                return Ok(());
            }
            answered.await.unwrap_or(Ok(()))
        };
        let mut looked = host.operations.start(
            OperationKind::VmLook,
            record.name.as_str(),
            OnHangUp::GoOn,
            ask,
            |(), _| async {},
        );
        while let Some(event) = looked.recv().await {
            if let banger_api::Event::Error { error } = event {
                // The owner may have gone.
                let _ = tell.send(format!("VM {} could not be looked at: {error}", record.name));
            }
        }
    }
    drop(tell);
    let mut found = Vec::new();
    while let Some(finding) = told.recv().await {
        found.push(finding);
    }
    match host.operations.while_idle(|| sweep(host)) {
        Some(swept) => found.extend(swept?),
        None => found
            .push("something is under way, so files that belong to nothing were not looked for".to_owned()),
    }
    found.extend(end_strays(host).await?);
    Ok(found)
}

/// A store that is moved away, and begun anew, knows nothing of the disks and images that are there. They are put aside,
/// not swept: they may be all that is left. They come back with their store.
fn set_aside_what_is_another_stores(host: &Host) -> Result<(), EngineError> {
    let state = &host.dirs.state;
    let mark = state.join("store.id");
    let own = host.store.id()?;
    let marked = match fs::read_to_string(&mark) {
        Ok(text) => Some(text.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(EngineError::file("read", &mark)(error)),
    };
    if marked.as_ref() == Some(&own) {
        return Ok(());
    }
    let of_nobody_known = marked.is_none() && host.store.is_empty()?;
    if marked.is_some() || of_nobody_known {
        let earlier = marked.unwrap_or_else(|| Timestamp::now().as_second().to_string());
        let aside = state.join(format!("{SET_ASIDE}{earlier}"));
        if move_kept(state, &aside)? {
            tracing::warn!(folder = %aside.display(), "what an earlier store spoke of was put aside");
        }
        let back = state.join(format!("{SET_ASIDE}{own}"));
        if back.exists() && move_kept(&back, state)? {
            tracing::warn!(folder = %back.display(), "came back with its store");
            images::remove(&back)?;
        }
    }
    let partial = mark.with_extension("partial");
    fs::write(&partial, format!("{own}\n")).map_err(EngineError::file("write", &partial))?;
    fs::rename(&partial, &mark).map_err(EngineError::file("name", &mark))
}

/// Moves what is kept in folder `from` to `to`; false when there is nothing.
fn move_kept(from: &Path, to: &Path) -> Result<bool, EngineError> {
    let full: Vec<_> = KEPT.into_iter().filter(|name| !is_empty(&from.join(name))).collect();
    if full.is_empty() {
        return Ok(false);
    }
    crate::dirs::private(to)?;
    for name in full {
        let (from, to) = (from.join(name), to.join(name));
        // An empty one makes way; a full one is an error, and both stay.
        fs::rename(&from, &to).map_err(EngineError::file("move", from))?;
    }
    Ok(true)
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none())
}

/// One VM: adopted if it runs and should; else what it held is given back. What nobody was told of, or was to go with
/// its session, goes.
async fn take_over(host: &Arc<Host>, record: &VmRecord) -> Result<(), EngineError> {
    // A session does not outlive the daemon it ran through.
    if !record.acknowledged || record.rm {
        vm::revert(&host.store, &record.id, Scope::Vm).await?;
        host.store.delete_vm(&record.id)?;
        tracing::info!(vm = %record.id, name = %record.name, "undone: its making, or its session, ended with the last daemon");
        return Ok(());
    }
    let adopted = match record.state {
        VmState::Running | VmState::Paused | VmState::Stopping => adopt(host, record).await?,
        _ => None,
    };
    match (record.state, adopted) {
        (VmState::Stopping, Some(alive)) => {
            tracing::info!(vm = %record.id, name = %record.name, "adopted, to be stopped in order");
            host.own_vm(&record.id, alive);
            finish_stop(host, record);
            return Ok(());
        }
        (_, Some(alive)) => {
            tracing::info!(vm = %record.id, name = %record.name, "adopted");
            host.own_vm(&record.id, alive);
            return Ok(());
        }
        (VmState::Running | VmState::Paused, None) => {
            let (_, console) = vm::last_words(host, &record.id);
            let why = format!("it ended while no bangerd was watching\n{}", console.join("\n"));
            went_down(host, record, Some(&why)).await?;
        }
        (VmState::Starting, None) => {
            went_down(host, record, Some("bangerd ended while it was being started")).await?
        }
        // It has ended, as it was asked to.
        (VmState::Stopping, None) => went_down(host, record, None).await?,
        (VmState::Created | VmState::Stopped | VmState::Error, None) => {
            vm::revert(&host.store, &record.id, Scope::Run).await?
        }
    }
    host.own_vm(&record.id, Alive::default());
    Ok(())
}

/// Goes on with a stop, for nobody in particular.
fn finish_stop(host: &Host, record: &VmRecord) {
    let Some(owner) = host.owner_of(&record.id) else { return };
    let grace = host.config().map_or(Defaults::STOP, |config| config.stop_timeout()).as_duration();
    let ask = async move |context| {
        let (answer, answered) = oneshot::channel();
        let message = Message { ask: Ask::Stop(grace), context, answer };
        // One that has gone needs no stop.
        if owner.send(message).await.is_err() {
            return Ok(());
        }
        answered.await.unwrap_or(Ok(()))
    };
    host.operations.start(OperationKind::VmStop, record.name.as_str(), OnHangUp::GoOn, ask, |(), _| async {});
}

async fn went_down(host: &Host, record: &VmRecord, why: Option<&str>) -> Result<(), EngineError> {
    vm::revert(&host.store, &record.id, Scope::Run).await?;
    host.store.set_vm_down(&record.id, why)?;
    tracing::warn!(vm = %record.id, name = %record.name, why, "is down");
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
            tracing::warn!(vm = %record.id, name = %record.name, %error, "its VMM cannot be asked");
            true
        }
    };
    Ok((vmm_is_there && answers).then_some(alive))
}

/// Removes what is in banger's folders and in no row: what was not published, or was deleted but for its files. Says
/// what it was.
fn sweep(host: &Host) -> Result<Vec<String>, EngineError> {
    // Before the rows are read: what is made meanwhile is then in neither list.
    let there = |folder: PathBuf| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let state = &host.dirs.state;
    let [disks, images, kernels] = KEPT.map(|name| there(state.join(name)));
    let sockets = there(host.dirs.runtime.join("vms"));
    let mut vms: HashSet<String> = host.store.vms()?.into_iter().map(|vm| vm.id.into()).collect();
    let mut found = remove_unknown(disks, &vms);
    // Sockets of a VM that nobody knows are its only way out while it runs.
    vms.extend(strays(host).into_iter().map(|(_, id)| id.into()));
    found.extend(remove_unknown(sockets, &vms));
    let known = host.store.images()?.into_iter().map(|image| image.id.into()).collect();
    found.extend(remove_unknown(images, &known));
    let known = host.store.kernels()?.into_iter().map(|kernel| kernel.id.into()).collect();
    found.extend(remove_unknown(kernels, &known));
    Ok(found)
}

fn remove_unknown(there: Vec<PathBuf>, known: &HashSet<String>) -> Vec<String> {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let unknown = there.into_iter().filter(|path| !known.contains(&name(path)));
    unknown
        .map(|path| match images::remove(&path) {
            Ok(()) => format!("{} belonged to nothing, and was removed", path.display()),
            Err(error) => format!("{} belongs to nothing, and stays: {error}", path.display()),
        })
        .collect()
}

/// Processes of VMs that the store does not know: pid and VM.
fn strays(host: &Host) -> Vec<(u32, Id)> {
    let folders = [host.dirs.runtime.join("vms"), host.dirs.state.join("vms")];
    let mut found = vm::of_folders(&folders);
    found.retain(|(_, id)| matches!(host.store.vm(id), Ok(None)));
    found
}

async fn end_strays(host: &Host) -> Result<Vec<String>, EngineError> {
    let mut found = Vec::new();
    for (pid, id) in strays(host) {
        vm::end(pid).await?;
        found.push(format!("process {pid} ran for VM {id}, which is not in the store, and was ended"));
    }
    Ok(found)
}
