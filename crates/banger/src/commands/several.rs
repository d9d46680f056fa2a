//! Commands on several VMs: resolved against one list without duplicates, run concurrently, printed in the order
//! given.

use std::{collections::HashSet, process::ExitCode};

use banger_api::{ApiError, ErrorKind, StartVm, SubjectKind, Vm, VmState, resolve};
use banger_client::{Client, Events};
use futures_util::future::join_all;

use crate::{
    error::CommandError,
    file_sync,
    ui::{Progress, Ui},
    workspace::Workspaces,
};

/// Runs `action` on every VM in `references`. A failure does not stop the others.
pub(super) async fn run_each(
    client: &Client,
    ui: &Ui,
    references: &[String],
    action: impl AsyncFn(&Vm) -> Result<(), ApiError>,
) -> Result<ExitCode, CommandError> {
    let mut failed = false;
    for result in gather(client, references, async |vm| action(vm).await.map(|()| vm.name.clone())).await? {
        match result {
            Ok(name) => ui.line(name)?,
            Err(error) => {
                failed = true;
                ui.error(&error);
            }
        }
    }
    if failed { Err(CommandError::already_reported(1)) } else { Ok(ExitCode::SUCCESS) }
}

/// Like [`run_each`], for an operation that returns the VM; shows its progress.
pub(super) async fn follow_each(
    client: &Client,
    ui: &Ui,
    references: &[String],
    start: impl AsyncFn(&Vm) -> Result<Events, ApiError>,
) -> Result<ExitCode, CommandError> {
    run_each(client, ui, references, async |vm| follow(ui, start(vm).await?).await.map(drop)).await
}

/// Like [`follow_each`], for an operation that starts the VM; then copies the user's files into it.
pub(super) async fn start_each(
    client: &Client,
    ui: &Ui,
    references: &[String],
    start: impl AsyncFn(&Vm) -> Result<Events, ApiError>,
) -> Result<ExitCode, CommandError> {
    let action = async |vm: &Vm| {
        let vm = follow(ui, start(vm).await?).await?;
        file_sync::after_start(client, ui, &vm).await;
        Ok(())
    };
    run_each(client, ui, references, action).await
}

async fn follow(ui: &Ui, mut events: Events) -> Result<Vm, ApiError> {
    let progress = Progress::new();
    Ok(events.result::<Vm>(|event| progress.show(ui, event)).await?.0)
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
    let workspaces = Workspaces::new(client, ui);
    let delete = async |vm: &Vm| {
        let stopped = matches!(vm.state, VmState::Created | VmState::Stopped | VmState::Error);
        // A VM that will not be deleted needs no check.
        let saved =
            if (stopped || force) && !discard { save_work(&workspaces, client, vm).await? } else { false };
        client.delete_vm(vm.id.as_str(), force || saved).await?.result::<()>(|_| {}).await?;
        workspaces.delete_records(vm);
        Ok(())
    };
    run_each(client, ui, references, delete).await
}

/// Pulls the work that exists only in `vm`, which is started or resumed if necessary. Returns whether it has
/// workspaces.
async fn save_work(workspaces: &Workspaces<'_>, client: &Client, vm: &Vm) -> Result<bool, ApiError> {
    if workspaces.records_of(vm)?.is_empty() {
        return Ok(false);
    }
    let saved = async {
        if vm.state == VmState::Paused {
            client.resume_vm(vm.id.as_str()).await?.result::<Vm>(|_| {}).await?;
        } else if vm.state != VmState::Running {
            client.start_vm(vm.id.as_str(), &StartVm::default()).await?.result::<Vm>(|_| {}).await?;
        }
        workspaces.save_work(vm).await.map_err(|failure| {
            failure.error.unwrap_or_else(|| ApiError::new(ErrorKind::Cancelled, "interrupted"))
        })
    };
    saved.await.map(|()| true).map_err(|error: ApiError| {
        let message =
            format!("VM {} was not deleted, because its work could not be saved: {}", vm.name, error.message);
        let hint = format!("delete it without saving its work: banger vm delete --discard {}", vm.name);
        ApiError { message, ..error }.hint(hint)
    })
}

/// Runs `action` on every VM in `references`, each once; returns the results in the order given.
pub(super) async fn gather<T>(
    client: &Client,
    references: &[String],
    action: impl AsyncFn(&Vm) -> Result<T, ApiError>,
) -> Result<Vec<Result<T, ApiError>>, ApiError> {
    let vms = client.vms().await?;
    let mut seen = HashSet::new();
    let resolved = references.iter().map(|reference| {
        resolve(&vms, reference).map_err(|error| ApiError::unresolved(SubjectKind::Vm, reference, error))
    });
    let unique = resolved.filter(|vm| vm.as_ref().map_or(true, |vm| seen.insert(vm.id.clone())));
    let action = &action;
    Ok(join_all(unique.map(async |vm| action(vm?).await)).await)
}
