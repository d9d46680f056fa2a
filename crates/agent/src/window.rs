//! Bytes from the host for a program or socket that may be slower: as many as the host may send ahead.

use std::{cell::Cell, rc::Rc};

use banger_proto::{Frame, Reply, STDIN_WINDOW};
use bytes::Bytes;
use tokio::sync::mpsc;

/// Where bytes are put as they come.
#[derive(Debug)]
pub(crate) struct Queue {
    bytes: mpsc::UnboundedSender<Bytes>,
    waiting: Rc<Cell<usize>>,
}

/// Where they are had from.
#[derive(Debug)]
pub(crate) struct Queued {
    bytes: mpsc::UnboundedReceiver<Bytes>,
    waiting: Rc<Cell<usize>>,
}

/// The host has sent more than it may.
#[derive(Debug)]
pub(crate) struct OverWindow;

pub(crate) fn queue() -> (Queue, Queued) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let waiting = Rc::new(Cell::new(0));
    (Queue { bytes: sender, waiting: waiting.clone() }, Queued { bytes: receiver, waiting })
}

impl Queue {
    /// Takes `bytes` in; none at all are the end.
    pub(crate) fn push(&self, bytes: Bytes) -> Result<(), OverWindow> {
        let waiting = self.waiting.get() + bytes.len();
        if waiting > STDIN_WINDOW {
            return Err(OverWindow);
        }
        self.waiting.set(waiting);
        // Nobody may want them any more.
        let _ = self.bytes.send(bytes);
        Ok(())
    }
}

impl Queued {
    /// The next bytes; none at all are the end.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        self.bytes.recv().await
    }

    /// Notes that `count` bytes are taken; what to tell the host of it.
    pub(crate) fn taken(&self, count: usize) -> Reply {
        self.waiting.set(self.waiting.get().saturating_sub(count));
        Reply::Taken { bytes: u32::try_from(count).unwrap_or(u32::MAX) }
    }
}

/// Tells the host, through whoever sends it frames; false when that has ended.
pub(crate) async fn tell(frames: &mpsc::Sender<Frame>, reply: &Reply) -> bool {
    match Frame::control(reply) {
        Ok(frame) => frames.send(frame).await.is_ok(),
        Err(_) => false,
    }
}
