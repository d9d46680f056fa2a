//! Copying from a guest to the host.

use std::{
    ffi::OsStr, future::Future, io::BufReader, os::unix::ffi::OsStrExt, path::Path, pin::pin, time::Duration,
};

use banger_api::{ApiError, ErrorKind};
use banger_files::{CopyRequest, StreamError, UnpackError, Unpacked, unpack_into, unpack_requested};
use banger_proto::{CopyDirection, ExitStatus, Request};
use bytes::Bytes;
use tokio::{
    sync::mpsc,
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};

use super::{
    CopyEvent, Destination, GuestPath, IDLE_TIMEOUT, cancelled,
    error::{agent_error, unpack_error, with_progress},
    idle_error,
    lines::Lines,
    pipe::{FromGuest, MAX_CHUNK, MAX_WAITING_CHUNKS},
};
use crate::{
    Client,
    exec::{ExecOutput, Output, protocol_error, run},
};

/// Timeout for the removal of partial files.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(60);

/// Copies `source` to `destination`, as `cp -a` would, until `stop`. With `follow`, a link at `source` is replaced by
/// its target.
///
/// # Errors
/// Returns an error if the VM cannot be reached, or not everything could be copied; `Cancelled` if it was stopped.
pub async fn copy_out(
    client: &Client,
    source: &GuestPath,
    follow: bool,
    destination: Destination,
    on_event: &mut dyn FnMut(CopyEvent),
    stop: impl Future<Output = ()>,
) -> Result<(), ApiError> {
    let mut stop = pin!(stop);
    let request = Request::Copy(source.request(CopyDirection::Out, follow));
    let (_input, output) = tokio::select! {
        streams = run(client, &source.vm, request) => streams?,
        () = &mut stop => return Err(cancelled()),
    };
    let (sender, chunks) = mpsc::channel(MAX_WAITING_CHUNKS);
    let request = CopyRequest::new(Path::new(OsStr::from_bytes(&source.path)), follow);
    let mut unpacking = spawn_blocking(move || write(&request, destination, FromGuest::new(chunks)));
    let mut lines = Lines::default();
    let ended = tokio::select! {
        ended = drain(output, sender, &mut lines, on_event) => ended,
        () = &mut stop => return Err(cancel(unpacking).await),
    };
    let (unpacked, done) = tokio::select! {
        written = &mut unpacking => {
            written.map_err(|error| ApiError::new(ErrorKind::Internal, error.to_string()))?
        }
        () = &mut stop => return Err(cancel(unpacking).await),
    };
    let failure = match (unpacked, ended) {
        // If the stream ended early, report the error that ended it instead.
        (Err(error), _) if !matches!(error, UnpackError::Stream(StreamError::Truncated)) => {
            unpack_error(error)
        }
        (_, Err(error)) => error,
        (unpacked, Ok(status)) => {
            match status.and_then(|status| Some((status, lines.end(status, on_event)?))) {
                Some((status, why)) => agent_error(&source.vm, status, &why),
                None => match unpacked {
                    Ok(()) if done.broken == 0 => return Ok(()),
                    Ok(()) => protocol_error("it reported success but sent only part of a file"),
                    Err(error) => unpack_error(error),
                },
            }
        }
    };
    Err(with_progress(failure, done))
}

/// Runs in the thread that writes the host's files.
fn write(
    request: &CopyRequest,
    destination: Destination,
    stream: FromGuest,
) -> (Result<(), UnpackError>, Unpacked) {
    let stream = BufReader::with_capacity(MAX_CHUNK, stream);
    let mut done = Unpacked::default();
    let unpacked = match destination {
        Destination::Files(path) => unpack_requested(stream, request, &path, &mut done),
        Destination::Output(mut out) => unpack_into(stream, &mut out),
    };
    (unpacked, done)
}

/// Passes data to the thread until the agent exits; returns no status if the thread ends first.
async fn drain(
    mut output: ExecOutput,
    chunks: mpsc::Sender<Bytes>,
    lines: &mut Lines,
    on_event: &mut dyn FnMut(CopyEvent),
) -> Result<Option<ExitStatus>, ApiError> {
    let mut received = 0;
    loop {
        match timeout(IDLE_TIMEOUT, output.next()).await.map_err(|_| idle_error())?? {
            Output::Stdout(bytes) => {
                received += bytes.len() as u64;
                if chunks.send(bytes).await.is_err() {
                    return Ok(None);
                }
                on_event(CopyEvent::Progress(received));
            }
            Output::Stderr(bytes) => lines.push(&bytes, on_event),
            Output::Acknowledged(_) => {}
            Output::Exited(status) => return Ok(Some(status)),
        }
    }
}

/// Waits until the thread, whose stream has ended, has removed partial files.
async fn cancel(unpacking: JoinHandle<(Result<(), UnpackError>, Unpacked)>) -> ApiError {
    match timeout(CLEANUP_TIMEOUT, unpacking).await {
        Ok(Ok((_, done))) => with_progress(cancelled(), done),
        _ => cancelled(),
    }
}
