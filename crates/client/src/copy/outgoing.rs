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
    CopyEvent, GuestPath, Origin,
    error::said,
    lines::Lines,
    pipe::{PART, ToGuest, WAITING},
    stopped,
    streams::Streams,
};
use crate::{
    Client,
    exec::{garbage, run},
};

/// Copies `origin` to `target`, as `cp -a` would, until `stop`.
///
/// # Errors
/// Returns an error if the VM cannot be reached, or not everything could be copied; `Cancelled` if it was stopped.
pub async fn copy_in(
    client: &Client,
    origin: Origin,
    target: &GuestPath,
    tell: &mut dyn FnMut(CopyEvent),
    stop: impl Future<Output = ()>,
) -> Result<(), ApiError> {
    let mut stop = pin!(stop);
    let request = Request::Copy(target.request(CopyDirection::In, false));
    let (input, output) = tokio::select! {
        streams = run(client, &target.vm, request) => streams?,
        () = &mut stop => return Err(stopped()),
    };
    let (sender, parts) = mpsc::channel(WAITING);
    let (tell_passed, passed) = mpsc::unbounded_channel();
    let packing = spawn_blocking(move || read(origin, ToGuest(sender), &tell_passed));
    let mut lines = Lines::default();
    let streams = Streams { input, output, parts: Some(parts), passed, came: None };
    let ended = tokio::select! {
        ended = streams.pass(&mut lines, tell) => ended?,
        () = &mut stop => return Err(stopped()),
    };
    if let Some(why) = lines.end(ended.status, tell) {
        return Err(said(&target.vm, ended.status, &why));
    }
    if !ended.whole {
        return Err(garbage("it reported success but received only part of the data"));
    }
    match packing.await {
        Ok(Ok(0)) => Ok(()),
        Ok(Ok(unread)) => {
            let things = if unread == 1 { "one file".to_owned() } else { format!("{unread} files") };
            let message = format!("{things} could not be read; everything else was copied");
            Err(ApiError::new(ErrorKind::Io, message))
        }
        Ok(Err(error)) => {
            Err(ApiError::new(ErrorKind::Io, format!("cannot read the source of the copy: {error}")))
        }
        Err(error) => Err(ApiError::new(ErrorKind::Internal, error.to_string())),
    }
}

/// Runs in the thread that reads the host's files. Returns how many of them could not be read.
fn read(origin: Origin, out: ToGuest, passed: &mpsc::UnboundedSender<String>) -> io::Result<u64> {
    let out = BufWriter::with_capacity(PART, out);
    match origin {
        Origin::Files(source) => pack(&source, out, &mut |sentence| {
            // The receiver is dropped when the copy was stopped.
            let _ = passed.send(sentence);
        }),
        Origin::Input(input) => pack_input(input, out).map(|()| 0),
    }
}
