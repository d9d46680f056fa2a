//! Copying from a guest to the host.

use std::{
    ffi::OsStr,
    future::Future,
    io::{self, BufReader, Read},
    os::unix::ffi::OsStrExt,
    path::Path,
    pin::{Pin, pin},
};

use banger_api::{ApiError, ErrorKind};
use banger_files::{CopyRequest, StreamError, UnpackError, Unpacked, unpack_into, unpack_requested};
use banger_proto::{CopyDirection, ExitStatus, Request};
use bytes::Bytes;
use tokio::{
    io::AsyncRead,
    sync::mpsc,
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};

use super::{
    CopyEvent, Destination, GuestPath, IDLE_TIMEOUT, STOP_TIMEOUT, cancelled,
    error::{agent_error, unpack_error, with_progress},
    idle_error,
    lines::Lines,
    pipe::{FromGuest, MAX_CHUNK, MAX_WAITING_CHUNKS},
};
use crate::{
    Client,
    exec::{ExecOutput, Output, run},
    protocol::protocol_error,
};

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
    let (_input, output) = tokio::select! {
        streams = run(client, &source.vm, Request::Copy(source.request(CopyDirection::Out, follow))) => streams?,
        () = &mut stop => return Err(cancelled()),
    };
    let request = CopyRequest::new(Path::new(OsStr::from_bytes(&source.path)), follow);
    receive(&source.vm, output, request, destination, on_event, stop).await
}

/// Receives the copy of `request` from VM `vm`.
async fn receive(
    vm: &str,
    output: ExecOutput<impl AsyncRead + Unpin>,
    request: CopyRequest,
    destination: Destination,
    on_event: &mut dyn FnMut(CopyEvent),
    mut stop: Pin<&mut impl Future<Output = ()>>,
) -> Result<(), ApiError> {
    let (sender, chunks) = mpsc::channel(MAX_WAITING_CHUNKS);
    let has_partial_files = matches!(destination, Destination::Files(_));
    let mut unpacking = spawn_blocking(move || write(&request, destination, FromGuest::new(chunks)));
    let mut lines = Lines::default();
    let ended = tokio::select! {
        ended = drain(output, sender, &mut lines, on_event) => ended,
        () = &mut stop => return Err(cancel(unpacking, has_partial_files).await),
    };
    let (unpacked, done) = tokio::select! {
        written = &mut unpacking => {
            written.map_err(|error| ApiError::new(ErrorKind::Internal, error.to_string()))?
        }
        () = &mut stop => return Err(cancel(unpacking, has_partial_files).await),
    };
    let failure = match (unpacked, ended) {
        (Err(error), _) if !matches!(error, UnpackError::Stream(_)) => unpack_error(error),
        (_, Err(error)) => error,
        // If the agent gives a reason, the stream is incomplete because of it.
        (unpacked, Ok(status)) => {
            match status.and_then(|status| Some((status, lines.end(status, on_event)?))) {
                Some((status, why)) => agent_error(vm, status, &why),
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
    let mut stream = BufReader::with_capacity(MAX_CHUNK, stream);
    let mut done = Unpacked::default();
    let unpacked = match destination {
        Destination::Files(path) => unpack_requested(&mut stream, request, &path, &mut done),
        Destination::Output(mut out) => unpack_into(&mut stream, &mut out),
    };
    (unpacked.and_then(|()| end(stream)), done)
}

/// Waits for the end of the data, after which the agent's exit status is known.
fn end(mut stream: impl Read) -> Result<(), UnpackError> {
    match io::copy(&mut stream.by_ref().take(1), &mut io::sink()) {
        Ok(0) => Ok(()),
        Ok(_) => Err(StreamError::Malformed("data after its end").into()),
        Err(error) => Err(StreamError::Read(error).into()),
    }
}

/// Passes data to the thread until the agent exits; returns no status if the thread ends first.
async fn drain(
    mut output: ExecOutput<impl AsyncRead + Unpin>,
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
            Output::Stderr(bytes) => lines.push(&bytes, on_event)?,
            Output::Acknowledged(_) => {}
            Output::Exited(status) => return Ok(Some(status)),
        }
    }
}

/// Waits until the thread, whose stream has ended, has removed partial files. A thread that writes to a pipe may wait
/// for its reader, and has nothing to remove.
async fn cancel(
    unpacking: JoinHandle<(Result<(), UnpackError>, Unpacked)>,
    has_partial_files: bool,
) -> ApiError {
    if !has_partial_files {
        return cancelled();
    }
    match timeout(STOP_TIMEOUT, unpacking).await {
        Ok(Ok((_, done))) => with_progress(cancelled(), done),
        _ => cancelled(),
    }
}

#[cfg(test)]
mod tests;
