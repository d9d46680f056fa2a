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
    CopyEvent,
    error::said,
    lines::Lines,
    pipe::{FromGuest, ToGuest, WAITING},
    stopped,
    streams::Streams,
};
use crate::{
    Client,
    exec::{garbage, run},
};

/// Timeout for a thread to end after the last byte: it must still write what was received.
const NOTICE: Duration = Duration::from_secs(600);

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
    tell: &mut dyn FnMut(CopyEvent),
    stop: impl Future<Output = ()>,
) -> Result<(S, R), ApiError> {
    let mut stop = pin!(stop);
    let wants_input = request.action != WorkspaceAction::List;
    // Local work before the first byte runs while the guest prepares.
    let (sender, parts) = mpsc::channel(WAITING);
    let sending = spawn_blocking(move || send(ToGuest(sender)));
    let (input, output) = tokio::select! {
        streams = run(client, vm, Request::Workspace(request)) => streams?,
        () = &mut stop => return Err(stopped()),
    };
    let (came, coming) = mpsc::channel(WAITING);
    let receiving = spawn_blocking(move || receive(FromGuest::new(coming)));
    // This side skips no files.
    let (_, passed) = mpsc::unbounded_channel();
    let mut lines = Lines::default();
    let streams = Streams { input, output, parts: wants_input.then_some(parts), passed, came: Some(came) };
    let ended = tokio::select! {
        ended = streams.pass(&mut lines, tell) => ended?,
        () = &mut stop => return Err(stopped()),
    };
    let why = lines.end(ended.status, tell);
    if ended.whole {
        // If sending failed here, the agent failed because of that, so the local error is returned.
        let sent = result(sending).await?;
        return match why {
            Some(why) => Err(said(vm, ended.status, &why)),
            None => Ok((sent, result(receiving).await?)),
        };
    }
    match why {
        Some(why) => Err(said(vm, ended.status, &why)),
        None => Err(garbage("it reported success but received only part of the data")),
    }
}

async fn result<T>(thread: JoinHandle<Result<T, ApiError>>) -> Result<T, ApiError> {
    match timeout(NOTICE, thread).await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => Err(ApiError::new(ErrorKind::Internal, error.to_string())),
        Err(_) => Err(ApiError::new(ErrorKind::Timeout, "timed out while the host processed the data")),
    }
}
