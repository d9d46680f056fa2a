//! From the host into a guest.

use std::{
    future::Future,
    io::{self, BufWriter},
    pin::pin,
};

use banger_api::{ApiError, ErrorKind};
use banger_files::{pack, pack_input};
use banger_proto::{CopyDirection, ExitStatus, Request};
use bytes::Bytes;
use tokio::{sync::mpsc, task::spawn_blocking, time::sleep};

use super::{
    CopyEvent, GuestPath, Origin, SILENCE,
    error::said,
    lines::Lines,
    pipe::{PART, ToGuest, WAITING},
    silent, stopped,
};
use crate::{
    Client,
    exec::{ExecInput, ExecOutput, Output, garbage, run},
};

/// Copies `origin` to `target`, as `cp -a` would, until `stop`.
///
/// # Errors
/// When the VM cannot be reached, or not everything could be copied; `Cancelled` when it was stopped.
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
    let (status, whole) = tokio::select! {
        ended = feed(input, output, parts, passed, &mut lines, tell) => ended?,
        () = &mut stop => return Err(stopped()),
    };
    if let Some(why) = lines.end(status, tell) {
        return Err(said(&target.vm, &why));
    }
    if !whole {
        return Err(garbage("it took only a part of what was sent and called that all"));
    }
    match packing.await {
        Ok(Ok(0)) => Ok(()),
        Ok(Ok(unread)) => {
            let things = if unread == 1 { "one thing".to_owned() } else { format!("{unread} things") };
            let message = format!("{things} could not be read; all else was copied");
            Err(ApiError::new(ErrorKind::Io, message))
        }
        Ok(Err(error)) => {
            Err(ApiError::new(ErrorKind::Io, format!("cannot read what was to be copied: {error}")))
        }
        Err(error) => Err(ApiError::new(ErrorKind::Internal, error.to_string())),
    }
}

/// The thread's work. Returns how many things could not be read.
fn read(origin: Origin, out: ToGuest, passed: &mpsc::UnboundedSender<String>) -> io::Result<u64> {
    let out = BufWriter::with_capacity(PART, out);
    match origin {
        Origin::Files(source) => pack(&source, out, &mut |sentence| {
            // Nobody listens any more when it was stopped.
            let _ = passed.send(sentence);
        }),
        Origin::Input(input) => pack_input(input, out).map(|()| 0),
    }
}

/// Sends what the thread has read until the agent's end has ended; says how, and whether all had been sent by then.
async fn feed(
    mut input: ExecInput,
    mut output: ExecOutput,
    mut parts: mpsc::Receiver<Bytes>,
    mut passed: mpsc::UnboundedReceiver<String>,
    lines: &mut Lines,
    tell: &mut dyn FnMut(CopyEvent),
) -> Result<(ExitStatus, bool), ApiError> {
    let (mut sending, mut through) = (Sending::On, 0);
    loop {
        let may_send = sending == Sending::On && input.window() >= PART;
        tokio::select! {
            biased;
            Some(sentence) = passed.recv() => tell(CopyEvent::PassedOver(sentence)),
            came = output.next() => match came? {
                Output::Stdout(_) => {}
                Output::Stderr(bytes) => lines.push(&bytes, tell),
                Output::Taken(bytes) => input.taken(bytes),
                Output::Exited(status) => return Ok((status, sending == Sending::Done)),
            },
            part = parts.recv(), if may_send => {
                let (sent, next) = match part {
                    Some(bytes) => {
                        through += bytes.len() as u64;
                        tell(CopyEvent::Through(through));
                        (input.stdin(&bytes).await, Sending::On)
                    }
                    None => (input.end_stdin().await, Sending::Done),
                };
                // A guest that takes no more has said why, or will.
                sending = if sent.is_ok() { next } else { Sending::Broken };
            }
            () = sleep(SILENCE), if !may_send => return Err(silent()),
        }
    }
}

/// How far the sending is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sending {
    On,
    Done,
    Broken,
}
