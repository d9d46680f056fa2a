//! The streams of a workspace operation: one thread produces data for the guest, another consumes data from it.

use std::{future::Future, time::Duration};

use banger_api::{ApiError, ErrorKind};
use banger_proto::{Request, Workspace, WorkspaceAction};
use bytes::Bytes;
use tokio::{
    sync::mpsc,
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};

use super::{
    CopyEvent, STOP_TIMEOUT, cancelled,
    error::agent_error,
    lines::Lines,
    pipe::{FromGuest, MAX_WAITING_CHUNKS, ToGuest},
    streams::{Outcome, Streams, surplus},
};
use crate::{Client, exec::run, protocol::protocol_error};

/// Timeout for a thread to end after the last byte: it must still write what was received.
const FINISH_TIMEOUT: Duration = Duration::from_secs(600);

/// Sends `request` to the agent of VM `vm`: `send` writes the data for it, `receive` reads the data from it. Returns
/// both results when the agent has finished. `stop` ends it early; `on_failure` ends local work that `send` and
/// `receive` still do after a failure.
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
    (stop, on_failure): (impl Future<Output = ()>, impl FnOnce()),
) -> Result<(S, R), ApiError> {
    let (sender, chunks) = mpsc::channel(MAX_WAITING_CHUNKS);
    let (received, from_guest) = mpsc::channel(MAX_WAITING_CHUNKS);
    // Local work before the first byte runs while the guest prepares.
    let mut sending = spawn_blocking(move || send(ToGuest(sender)));
    let mut receiving = spawn_blocking(move || receive(FromGuest::new(from_guest)));
    let transfer = async {
        match transfer(client, vm, request, (chunks, received), on_event).await? {
            Ended::Refused(failure) => Err(failure),
            // The thread's own error explains why it accepts no more.
            Ended::Surplus => result(&mut receiving).await.and(Err(surplus())),
            Ended::Complete(failure) => {
                // If sending failed here, the agent failed because of that, so the local error is returned.
                let sent = result(&mut sending).await?;
                match failure {
                    Some(failure) => Err(failure),
                    None => Ok((sent, result(&mut receiving).await?)),
                }
            }
        }
    };
    let result = tokio::select! {
        result = transfer => Some(result),
        () = stop => None,
    };
    match result {
        Some(Ok(results)) => return Ok(results),
        Some(Err(_)) => on_failure(),
        None => {}
    }
    // Both threads notice the end of their streams.
    tokio::join!(end(sending), end(receiving));
    result.unwrap_or_else(|| Err(cancelled()))
}

/// The end of the transfer.
enum Ended {
    /// All data was sent, and the agent has finished, perhaps with a failure.
    Complete(Option<ApiError>),
    /// The agent has failed before all data was sent.
    Refused(ApiError),
    /// The agent has sent more than the receiving thread accepts.
    Surplus,
}

/// Transfers data between the agent and the threads, until the agent has finished.
async fn transfer(
    client: &Client,
    vm: &str,
    request: Workspace,
    (chunks, received): (mpsc::Receiver<Bytes>, mpsc::Sender<Bytes>),
    on_event: &mut dyn FnMut(CopyEvent),
) -> Result<Ended, ApiError> {
    let wants_input = request.action != WorkspaceAction::List;
    let (input, output) = run(client, vm, Request::Workspace(request)).await?;
    // This side skips no files.
    let (_, skipped) = mpsc::unbounded_channel();
    let mut lines = Lines::default();
    let streams =
        Streams { input, output, chunks: wants_input.then_some(chunks), skipped, received: Some(received) };
    let Outcome::Exited { status, complete } = streams.transfer(&mut lines, on_event).await? else {
        return Ok(Ended::Surplus);
    };
    match lines.end(status, on_event).map(|why| agent_error(vm, status, &why)) {
        failure if complete => Ok(Ended::Complete(failure)),
        Some(failure) => Ok(Ended::Refused(failure)),
        None => Err(protocol_error("it reported success but received only part of the data")),
    }
}

/// Waits until a thread of a transfer that was ended early has ended: it removes its temporary files.
async fn end<T>(thread: JoinHandle<T>) {
    // The transfer may have received its result.
    if !thread.is_finished() {
        let _ = timeout(STOP_TIMEOUT, thread).await;
    }
}

async fn result<T>(thread: &mut JoinHandle<Result<T, ApiError>>) -> Result<T, ApiError> {
    match timeout(FINISH_TIMEOUT, thread).await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => Err(ApiError::new(ErrorKind::Internal, error.to_string())),
        Err(_) => Err(ApiError::new(ErrorKind::Timeout, "timed out while the host processed the data")),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering::Relaxed},
        },
    };

    use banger_api::Dirs;

    use super::*;
    use crate::connect::Daemon;

    #[tokio::test]
    async fn a_failed_exchange_waits_for_its_threads() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = Dirs::find(|_| Some(dir.path().to_owned())).unwrap();
        let client = Client { daemon: Daemon { dirs, program: dir.path().join("missing") } };
        let (failed, failure) = std::sync::mpsc::channel::<()>();
        let (came, result_came) = std::sync::mpsc::channel::<()>();
        let ended = Arc::new(AtomicBool::new(false));
        let has_ended = ended.clone();
        let receive = move |_| {
            // The sender is dropped.
            let _ = failure.recv();
            // A result that does not wait for this thread comes now, and would find that it has not ended.
            let _ = result_came.recv_timeout(Duration::from_millis(200));
            ended.store(true, Relaxed);
            Ok(())
        };
        let request = Workspace { path: b"/root".to_vec(), action: WorkspaceAction::Place };
        let ends = (pending(), || drop(failed));
        let result = exchange(&client, "box", request, |_| Ok(()), receive, &mut |_| (), ends).await;
        assert!(result.is_err() && has_ended.load(Relaxed));
        drop(came);
    }
}
