//! Copying from the host into a guest.

use std::{
    future::Future,
    io::{self, BufWriter},
    pin::pin,
};

use banger_api::{ApiError, ErrorKind};
use banger_files::{pack, pack_input};
use banger_proto::{CopyDirection, Request};
use tokio::{sync::mpsc, task::spawn_blocking};

use super::{
    CopyEvent, GuestPath, Origin, cancelled,
    error::agent_error,
    lines::Lines,
    pipe::{MAX_CHUNK, MAX_WAITING_CHUNKS, ToGuest},
    streams::{Outcome, Streams, surplus},
};
use crate::{Client, exec::run, protocol::protocol_error};

/// Copies `origin` to `target`, as `cp -a` would, until `stop`.
///
/// # Errors
/// Returns an error if the VM cannot be reached, or not everything could be copied; `Cancelled` if it was stopped.
pub async fn copy_in(
    client: &Client,
    origin: Origin,
    target: &GuestPath,
    on_event: &mut dyn FnMut(CopyEvent),
    stop: impl Future<Output = ()>,
) -> Result<(), ApiError> {
    let mut stop = pin!(stop);
    let request = Request::Copy(target.request(CopyDirection::In, false));
    let (input, output) = tokio::select! {
        streams = run(client, &target.vm, request) => streams?,
        () = &mut stop => return Err(cancelled()),
    };
    let (sender, chunks) = mpsc::channel(MAX_WAITING_CHUNKS);
    let (skip_sender, skipped) = mpsc::unbounded_channel();
    let packing = spawn_blocking(move || read(origin, ToGuest(sender), &skip_sender));
    let mut lines = Lines::default();
    let streams = Streams { input, output, chunks: Some(chunks), skipped, received: None };
    let outcome = tokio::select! {
        outcome = streams.transfer(&mut lines, on_event) => outcome?,
        () = &mut stop => return Err(cancelled()),
    };
    let Outcome::Exited { status, complete } = outcome else { return Err(surplus()) };
    if let Some(why) = lines.end(status, on_event) {
        return Err(agent_error(&target.vm, status, &why));
    }
    if !complete {
        return Err(protocol_error("it reported success but received only part of the data"));
    }
    match packing.await {
        Ok(Ok(0)) => Ok(()),
        Ok(Ok(unread)) => {
            let files = if unread == 1 { "one file".to_owned() } else { format!("{unread} files") };
            let message = format!("{files} could not be read; everything else was copied");
            Err(ApiError::new(ErrorKind::Io, message))
        }
        Ok(Err(error)) => {
            Err(ApiError::new(ErrorKind::Io, format!("cannot read the source of the copy: {error}")))
        }
        Err(error) => Err(ApiError::new(ErrorKind::Internal, error.to_string())),
    }
}

/// Runs in the thread that reads the host's files. Returns how many of them could not be read.
fn read(origin: Origin, out: ToGuest, skipped: &mpsc::UnboundedSender<String>) -> io::Result<u64> {
    let out = BufWriter::with_capacity(MAX_CHUNK, out);
    match origin {
        Origin::Files(source) => pack(&source, out, &mut |sentence| {
            // The receiver is dropped when the copy was stopped.
            let _ = skipped.send(sentence);
        }),
        Origin::Input(input) => pack_input(input, out).map(|()| 0),
    }
}
