//! Commands on several VMs: resolved against one list without duplicates, run concurrently, printed in the order
//! given.

use std::{collections::HashSet, process::ExitCode};

use banger_api::{ApiError, ErrorKind, RefError, StartVm, Vm, VmState, resolve};
use banger_client::{Client, Events};
use futures_util::future::join_all;

use crate::{
    error::CommandError,
    file_sync,
    ui::{Progress, Ui},
    workspace::Workspaces,
};

/// Runs `act` on every VM in `references`. A failure does not stop the others.
pub(super) async fn each(
    client: &Client,
    ui: &Ui,
    references: &[String],
    act: impl AsyncFn(&Vm) -> Result<(), ApiError>,
) -> Result<ExitCode, CommandError> {
    let mut failed = false;
    for result in gather(client, references, async |vm| act(vm).await.map(|()| vm.name.clone())).await? {
        match result {
            Ok(name) => ui.line(name)?,
            Err(error) => {
                failed = true;
                ui.error(&error);
            }
        }
    }
    if failed { Err(CommandError::told(1)) } else { Ok(ExitCode::SUCCESS) }
}

/// Like [`each`], for an operation that returns the VM; shows its progress.
pub(super) async fn follow_each(
    client: &Client,
    ui: &Ui,
    references: &[String],
    start: impl AsyncFn(&Vm) -> Result<Events, ApiError>,
) -> Result<ExitCode, CommandError> {
    each(client, ui, references, async |vm| follow(ui, start(vm).await?).await.map(drop)).await
}

/// Like [`follow_each`], for an operation that starts the VM; then copies the user's files into it.
pub(super) async fn start_each(
    client: &Client,
    ui: &Ui,
    references: &[String],
    start: impl AsyncFn(&Vm) -> Result<Events, ApiError>,
) -> Result<ExitCode, CommandError> {
    let act = async |vm: &Vm| {
        let vm = follow(ui, start(vm).await?).await?;
        file_sync::after_start(client, ui, &vm).await;
        Ok(())
    };
    each(client, ui, references, act).await
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
        let down = matches!(vm.state, VmState::Created | VmState::Stopped | VmState::Error);
        // A VM that will not be deleted needs no check.
        let rescued =
            if (down || force) && !discard { rescue(&workspaces, client, vm).await? } else { false };
        client.delete_vm(vm.id.as_str(), force || rescued).await?.result::<()>(|_| {}).await?;
        workspaces.forget(vm);
        Ok(())
    };
    each(client, ui, references, delete).await
}

/// Pulls the work that exists only in `vm`, which is started or resumed if necessary. Returns whether it has
/// workspaces.
async fn rescue(workspaces: &Workspaces<'_>, client: &Client, vm: &Vm) -> Result<bool, ApiError> {
    if workspaces.of(vm)?.is_empty() {
        return Ok(false);
    }
    let rescued = async {
        if vm.state == VmState::Paused {
            client.resume_vm(vm.id.as_str()).await?.result::<Vm>(|_| {}).await?;
        } else if vm.state != VmState::Running {
            client.start_vm(vm.id.as_str(), &StartVm::default()).await?.result::<Vm>(|_| {}).await?;
        }
        workspaces.rescue(vm).await.map_err(|failure| {
            failure.error.unwrap_or_else(|| ApiError::new(ErrorKind::Cancelled, "interrupted"))
        })
    };
    rescued.await.map(|()| true).map_err(|error: ApiError| {
        let message =
            format!("VM {} was not deleted, because its work could not be saved: {}", vm.name, error.message);
        let hint = format!("delete it without saving its work: banger vm delete --discard {}", vm.name);
        ApiError { message, ..error }.hint(hint)
    })
}

/// Runs `act` on every VM in `references`, each once; returns the results in the order given.
pub(super) async fn gather<T>(
    client: &Client,
    references: &[String],
    act: impl AsyncFn(&Vm) -> Result<T, ApiError>,
) -> Result<Vec<Result<T, ApiError>>, ApiError> {
    let vms = client.vms().await?;
    let mut seen = HashSet::new();
    let found = references
        .iter()
        .map(|reference| resolve(&vms, reference).map_err(|error| unknown(reference, error)));
    let once = found.filter(|vm| vm.as_ref().map_or(true, |vm| seen.insert(vm.id.clone())));
    let act = &act;
    Ok(join_all(once.map(async |vm| act(vm?).await)).await)
}

fn unknown(reference: &str, error: RefError) -> ApiError {
    match error {
        RefError::NotFound => ApiError::new(ErrorKind::NotFound, format!("there is no VM {reference:?}"))
            .hint("see `banger ps -a`"),
        RefError::Ambiguous(names) => ApiError::new(
            ErrorKind::Ambiguous,
            format!("{reference:?} could be any of the VMs {}", names.join(", ")),
        )
        .hint("use a longer prefix of the name or id"),
    }
}
