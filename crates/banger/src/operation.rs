//! Following an operation, and what a signal does to it.

use std::time::Duration;

use banger_api::{ErrorKind, Span};
use banger_client::{Client, Events};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::{
    error::CommandError,
    signals,
    ui::{Progress, Ui},
};

/// Timeout for the rollback of a cancelled operation; the daemon continues it in any case.
const ROLLBACK_TIMEOUT: Duration = Duration::from_secs(30);

/// What the user is shown if the undo of an operation is left to the daemon.
const UNDONE_LATER: &str = "bangerd continues to undo the operation; see `banger operations`";

/// Returns the result of the operation behind `events` and shows its progress. The first signal cancels the operation
/// and waits for its undo; a second one leaves the undo to the daemon.
pub(crate) async fn watch<T: DeserializeOwned>(
    client: &Client,
    events: &mut Events,
    ui: &Ui,
) -> Result<(T, Vec<Span>), CommandError> {
    let mut phase = signals::cancellable();
    let progress = Progress::new();
    let mut show = |event: &_| progress.show(ui, event);
    let signal = tokio::select! {
        result = events.result(&mut show) => return Ok(result?),
        signal = phase.cancelled() => signal,
    };
    // Dropping `events` cancels an operation that has not reported its start.
    let Some(operation) = events.operation().cloned() else { return Err(signals::interrupted(signal)) };
    phase.set_last_words(UNDONE_LATER);
    progress.clear();
    ui.note("Undoing the operation");
    let undone = async {
        match client.cancel(operation.as_str()).await {
            // The operation may have just ended.
            Err(error) if error.kind != ErrorKind::NotFound => Err(error),
            _ => events.result::<T>(&mut show).await,
        }
    };
    match timeout(ROLLBACK_TIMEOUT, undone).await {
        // It ended before the cancellation. Its result is kept; the signal cancels the next phase, if there is one.
        Ok(Ok(result)) => {
            ui.note("The operation had already finished");
            Ok(result)
        }
        Ok(Err(error)) if error.kind != ErrorKind::Cancelled => {
            ui.error(&error);
            Err(signals::interrupted(signal))
        }
        Ok(Err(_)) => Err(signals::interrupted(signal)),
        Err(_) => {
            ui.note(UNDONE_LATER);
            Err(signals::interrupted(signal))
        }
    }
}

/// Returns the result of the operation behind `events` and shows its progress. The operation continues if a signal ends
/// banger meanwhile; `continues` then says so.
pub(crate) async fn follow<T: DeserializeOwned>(
    events: &mut Events,
    ui: &Ui,
    continues: &str,
) -> Result<T, CommandError> {
    let mut phase = signals::cancellable();
    phase.set_last_words(continues);
    let progress = Progress::new();
    let result = phase.run(events.result(|event| progress.show(ui, event))).await;
    progress.clear();
    if result.is_err() {
        ui.note(continues);
    }
    Ok(result??.0)
}
