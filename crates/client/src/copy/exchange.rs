//! The streams of a workspace operation: one thread produces data for the guest, another consumes data from it.

use std::{future::Future, pin::pin, time::Duration};

use banger_api::{ApiError, ErrorKind};
use banger_proto::{Request, Workspace, WorkspaceAction};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};

use super::{
    CopyEvent, cancelled,
    error::agent_error,
    lines::Lines,
    pipe::{FromGuest, MAX_WAITING_CHUNKS, ToGuest},
    streams::{Outcome, Streams, surplus},
};
use crate::{Client, exec::run, protocol::protocol_error};

/// Timeout for a thread to end after the last byte: it must still write what was received.
const FINISH_TIMEOUT: Duration = Duration::from_secs(600);

/// Sends `request` to the agent of VM `vm`: `send` writes the data for it, `receive` reads the data from it. Returns
/// both results when the agent has finished.
///
/// # Errors
/// Returns an error if the VM cannot be reached, or its agent, `send` or `receive` fail; `Cancelled` if it was
/// stopped.
pub async fn exchange<S: Send + 'static, R: Send + 'static>(
    client: &Client,
    vm: &str,
    request: Workspace,
    send: impl FnOnce(ToGuest) -> Result<S, ApiError> + Send + 'static,
    receive: impl FnOnce(FromGuest) -> Result<R, ApiError> + Send + 'static,
    on_event: &mut dyn FnMut(CopyEvent),
    stop: impl Future<Output = ()>,
) -> Result<(S, R), ApiError> {
    let mut stop = pin!(stop);
    let wants_input = request.action != WorkspaceAction::List;
    // Local work before the first byte runs while the guest prepares.
    let (sender, chunks) = mpsc::channel(MAX_WAITING_CHUNKS);
    let sending = spawn_blocking(move || send(ToGuest(sender)));
    let (input, output) = tokio::select! {
        streams = run(client, vm, Request::Workspace(request)) => streams?,
        () = &mut stop => return Err(cancelled()),
    };
    let (received, from_guest) = mpsc::channel(MAX_WAITING_CHUNKS);
    let receiving = spawn_blocking(move || receive(FromGuest::new(from_guest)));
    // This side skips no files.
    let (_, skipped) = mpsc::unbounded_channel();
    let mut lines = Lines::default();
    let streams =
        Streams { input, output, chunks: wants_input.then_some(chunks), skipped, received: Some(received) };
    let outcome = tokio::select! {
        outcome = streams.transfer(&mut lines, on_event) => outcome?,
        () = &mut stop => return Err(cancelled()),
    };
    let Outcome::Exited { status, complete } = outcome else {
        // The thread's own error explains why it accepts no more.
        result(receiving).await?;
        return Err(surplus());
    };
    let why = lines.end(status, on_event);
    if complete {
        // If sending failed here, the agent failed because of that, so the local error is returned.
        let sent = result(sending).await?;
        return match why {
            Some(why) => Err(agent_error(vm, status, &why)),
            None => Ok((sent, result(receiving).await?)),
        };
    }
    match why {
        Some(why) => Err(agent_error(vm, status, &why)),
        None => Err(protocol_error("it reported success but received only part of the data")),
    }
}

async fn result<T>(thread: JoinHandle<Result<T, ApiError>>) -> Result<T, ApiError> {
    match timeout(FINISH_TIMEOUT, thread).await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => Err(ApiError::new(ErrorKind::Internal, error.to_string())),
        Err(_) => Err(ApiError::new(ErrorKind::Timeout, "timed out while the host processed the data")),
    }
}
