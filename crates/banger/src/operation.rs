//! Following an operation, and cancelling it cleanly when the user presses Ctrl-C.

use std::time::Duration;

use banger_api::{ApiError, ErrorKind, Span};
use banger_client::{Client, Events};
use rustix::process::Signal;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::{
    error::CommandError,
    session,
    ui::{Progress, Ui},
};

/// Timeout for the rollback of a cancelled operation; the daemon continues it in any case.
const ROLLBACK_TIMEOUT: Duration = Duration::from_secs(30);

/// Returns the result of the operation behind `events` and shows its progress. The first Ctrl-C cancels the operation
/// and waits for its rollback; a second one leaves the rollback to the daemon.
pub(crate) async fn watch<T: DeserializeOwned>(
    client: &Client,
    events: &mut Events,
    ui: &Ui,
) -> Result<(T, Vec<Span>), CommandError> {
    let mut signals = session::signals(&[Signal::INT, Signal::TERM, Signal::HUP])?;
    let progress = Progress::new();
    let mut show = |event: &_| progress.show(ui, event);
    let signal = tokio::select! {
        result = events.result(&mut show) => return Ok(result?),
        Some(signal) = signals.recv() => signal,
    };
    let Some(operation) = events.operation().cloned() else { return Err(CommandError::interrupted(signal)) };
    progress.clear();
    ui.note("Undoing the operation");
    // The operation may have just ended.
    match client.cancel(operation.as_str()).await {
        Err(error) if error.kind != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let rollback = async {
        tokio::select! {
            result = events.result::<T>(&mut show) => Some(result),
            _ = signals.recv() => None,
        }
    };
    match timeout(ROLLBACK_TIMEOUT, rollback).await {
        // The operation finished before the cancellation; the user may keep or delete the result.
        Ok(Some(Ok(result))) => Ok(result),
        Ok(Some(Err(error))) if error.kind != ErrorKind::Cancelled => Err(error.into()),
        Ok(_) => Err(CommandError::interrupted(signal)),
        Err(_) => {
            let error =
                ApiError::new(ErrorKind::Timeout, "the operation is not undone yet; bangerd continues that");
            Err(error.hint("see `banger ps -a` and `banger daemon logs`").into())
        }
    }
}

/// Returns the result of the operation behind `events` and shows its progress. The operation continues if the caller
/// stops following it.
pub(crate) async fn follow<T: DeserializeOwned>(events: &mut Events, ui: &Ui) -> Result<T, CommandError> {
    let progress = Progress::new();
    Ok(events.result(|event| progress.show(ui, event)).await?.0)
}
