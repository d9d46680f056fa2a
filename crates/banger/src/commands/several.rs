//! Commands on several VMs: resolved against one list without duplicates, run concurrently, printed in the order
//! given.

use std::{collections::HashSet, process::ExitCode};

use banger_api::{ApiError, StartVm, SubjectKind, Vm, VmState, resolve};
use banger_client::{Client, Events};
use banger_workspace::LockedRecords;
use futures_util::future::join_all;

use crate::{
    error::CommandError,
    file_sync,
    operation::{follow, watch},
    signals,
    steps::Step,
    ui::Ui,
    workspace::Workspaces,
};

/// Runs `action` on every VM in `references`. A failure does not stop the others; a signal stops all.
pub(super) async fn run_each(
    client: &Client,
    ui: &Ui,
    references: &[String],
    action: impl AsyncFn(&Vm) -> Result<(), CommandError>,
) -> Result<ExitCode, CommandError> {
    let mut status = 0;
    for result in gather(client, references, async |vm| action(vm).await.map(|()| vm.name.clone())).await? {
        match result {
            Ok(name) => ui.line(name)?,
            Err(failure) => {
                status = status.max(failure.status);
                if let Some(error) = &failure.error {
                    ui.error(error);
                }
            }
        }
    }
    if status > 0 { Err(CommandError::already_reported(status)) } else { Ok(ExitCode::SUCCESS) }
}

/// Like [`run_each`], for an operation that can be undone; shows its progress.
pub(super) async fn watch_each(
    client: &Client,
    ui: &Ui,
    references: &[String],
    start: impl AsyncFn(&Vm) -> Result<Events, ApiError>,
) -> Result<ExitCode, CommandError> {
    let action = async |vm: &Vm| watch::<Vm>(client, &mut begin(start(vm)).await?, ui).await.map(drop);
    run_each(client, ui, references, action).await
}

/// Like [`watch_each`], for an operation that cannot be undone: it stops a VM.
pub(super) async fn stop_each(
    client: &Client,
    ui: &Ui,
    references: &[String],
    start: impl AsyncFn(&Vm) -> Result<Events, ApiError>,
) -> Result<ExitCode, CommandError> {
    let action = async |vm: &Vm| follow_stop(ui, vm, begin(start(vm)).await?).await.map(drop);
    run_each(client, ui, references, action).await
}

/// Like [`watch_each`], for an operation that starts the VM; then copies the user's files into it.
pub(super) async fn start_each(
    client: &Client,
    ui: &Ui,
    references: &[String],
    start: impl AsyncFn(&Vm) -> Result<Events, ApiError>,
) -> Result<ExitCode, CommandError> {
    let action = async |vm: &Vm| {
        let (vm, _) = watch::<Vm>(client, &mut begin(start(vm)).await?, ui).await?;
        file_sync::after_start(client, ui, &vm).await
    };
    run_each(client, ui, references, action).await
}

/// Like [`start_each`], for an operation that stops the VM first.
pub(super) async fn restart_each(
    client: &Client,
    ui: &Ui,
    references: &[String],
    start: impl AsyncFn(&Vm) -> Result<Events, ApiError>,
) -> Result<ExitCode, CommandError> {
    let action = async |vm: &Vm| {
        let vm = follow_stop(ui, vm, begin(start(vm)).await?).await?;
        file_sync::after_start(client, ui, &vm).await
    };
    run_each(client, ui, references, action).await
}

async fn follow_stop(ui: &Ui, vm: &Vm, mut events: Events) -> Result<Vm, CommandError> {
    let continues = format!("bangerd continues with VM {}; see `banger operations`", vm.name);
    follow(&mut events, ui, &continues).await
}

/// Deletes every VM in `references`; without `force`, only those that are stopped. Unless `discard` is set, first
/// pulls the work that exists only in the VM.
pub(super) async fn delete_each(
    client: &Client,
    ui: &Ui,
    references: &[String],
    force: bool,
    discard: bool,
) -> Result<ExitCode, CommandError> {
    let workspaces = Workspaces::new(client, ui)?;
    let delete = async |vm: &Vm| {
        let stopped = matches!(vm.state, VmState::Created | VmState::Stopped | VmState::Error);
        // A VM that will not be deleted needs no check.
        let will_be_deleted = stopped || force;
        let saved = match discard || !will_be_deleted {
            true => None,
            false => save_work(&workspaces, client, ui, vm).await?,
        };
        let force = force || saved.is_some();
        let records = match will_be_deleted {
            true => workspaces.mark_deleted(vm, saved).await?,
            false => None,
        };
        let deletion = async {
            let mut events = begin(client.delete_vm(vm.id.as_str(), force)).await?;
            let continues = format!("bangerd continues to delete VM {}; see `banger ps -a`", vm.name);
            follow::<()>(&mut events, ui, &continues).await
        };
        Step::DeleteVm.around_async(deletion).await?;
        workspaces.delete_records(vm, records);
        Ok(())
    };
    let deleted = run_each(client, ui, references, delete).await;
    workspaces.delete_old_records().await;
    deleted
}

/// Starts an operation; a signal cancels that.
async fn begin(start: impl Future<Output = Result<Events, ApiError>>) -> Result<Events, CommandError> {
    Ok(signals::cancellable().run(start).await??)
}

/// Pulls the work that exists only in `vm`, which is started or resumed if necessary. Returns the records of its
/// workspaces, if it has any.
async fn save_work(
    workspaces: &Workspaces<'_>,
    client: &Client,
    ui: &Ui,
    vm: &Vm,
) -> Result<Option<LockedRecords>, CommandError> {
    if workspaces.records_of(vm)?.is_empty() {
        return Ok(None);
    }
    let saved = async {
        if vm.state == VmState::Paused {
            watch::<Vm>(client, &mut begin(client.resume_vm(vm.id.as_str())).await?, ui).await?;
        } else if vm.state != VmState::Running {
            let options = StartVm::default();
            let mut events = begin(client.start_vm(vm.id.as_str(), &options)).await?;
            watch::<Vm>(client, &mut events, ui).await?;
        }
        workspaces.save_work(vm).await
    };
    saved.await.map_err(|failure: CommandError| {
        let Some(error) = failure.error else {
            ui.note(format_args!("VM {0} was not deleted; continue with: banger vm delete {0}", vm.name));
            return failure;
        };
        let message =
            format!("VM {} was not deleted, because its work could not be saved: {}", vm.name, error.message);
        let discard = format!("delete it without saving its work: banger vm delete --discard {}", vm.name);
        let hint =
            error.hint.as_ref().map_or_else(|| discard.clone(), |hint| format!("{hint}; or {discard}"));
        ApiError { message, ..error }.hint(hint).into()
    })
}

/// Runs `action` on every VM in `references`, each once; returns the results in the order given.
pub(super) async fn gather<T, E: From<ApiError>>(
    client: &Client,
    references: &[String],
    action: impl AsyncFn(&Vm) -> Result<T, E>,
) -> Result<Vec<Result<T, E>>, ApiError> {
    let vms = client.vms().await?;
    let mut seen = HashSet::new();
    let resolved = references.iter().map(|reference| {
        resolve(&vms, reference).map_err(|error| ApiError::unresolved(SubjectKind::Vm, reference, error))
    });
    let unique = resolved.filter(|vm| vm.as_ref().map_or(true, |vm| seen.insert(vm.id.clone())));
    let action = &action;
    Ok(join_all(unique.map(async |vm| action(vm?).await)).await)
}
