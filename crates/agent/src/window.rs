//! Queues bytes from the host for a slower program or socket, up to the host's window.

use std::{cell::Cell, rc::Rc};

use banger_proto::{Frame, Reply, STDIN_WINDOW};
use bytes::Bytes;
use tokio::sync::mpsc;

/// The sending end of a queue.
#[derive(Debug)]
pub(crate) struct QueueSender {
    bytes: mpsc::UnboundedSender<Bytes>,
    waiting: Rc<Cell<usize>>,
}

/// The receiving end of a queue.
#[derive(Debug)]
pub(crate) struct QueueReceiver {
    bytes: mpsc::UnboundedReceiver<Bytes>,
    waiting: Rc<Cell<usize>>,
}

/// The host has exceeded the window.
#[derive(Debug)]
pub(crate) struct WindowExceeded;

pub(crate) fn queue() -> (QueueSender, QueueReceiver) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let waiting = Rc::new(Cell::new(0));
    (QueueSender { bytes: sender, waiting: waiting.clone() }, QueueReceiver { bytes: receiver, waiting })
}

impl QueueSender {
    /// Queues `bytes`; empty bytes are the end.
    pub(crate) fn push(&self, bytes: Bytes) -> Result<(), WindowExceeded> {
        let waiting = self.waiting.get() + bytes.len();
        if waiting > STDIN_WINDOW {
            return Err(WindowExceeded);
        }
        self.waiting.set(waiting);
        // The receiver may have been dropped.
        let _ = self.bytes.send(bytes);
        Ok(())
    }
}

impl QueueReceiver {
    /// Returns the next bytes; empty bytes are the end.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        self.bytes.recv().await
    }

    /// Records that `count` bytes are consumed, and returns the message for the host.
    pub(crate) fn acknowledge(&self, count: usize) -> Reply {
        self.waiting.set(self.waiting.get().saturating_sub(count));
        acknowledgement(count)
    }
}

/// Returns the message that acknowledges `count` bytes.
pub(crate) fn acknowledgement(count: usize) -> Reply {
    Reply::Acknowledged { bytes: u32::try_from(count).unwrap_or(u32::MAX) }
}

/// Sends `reply` to the host through the sender of `frames`; returns false if the connection has ended.
pub(crate) async fn send_reply(frames: &mpsc::Sender<Frame>, reply: &Reply) -> bool {
    match Frame::control(reply) {
        Ok(frame) => frames.send(frame).await.is_ok(),
        Err(_) => false,
    }
}
