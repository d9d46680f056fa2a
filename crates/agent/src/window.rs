//! The bytes that the host may send to a program or socket which is slower, and a queue for them.

use std::{cell::Cell, rc::Rc};

use banger_proto::{Frame, Reply, STDIN_WINDOW};
use bytes::Bytes;
use tokio::sync::mpsc;

/// Consumed bytes that are acknowledged at once. A message costs more than many bytes in a guest without KVM.
const ACKNOWLEDGED_AT_ONCE: usize = STDIN_WINDOW / 4;

/// Maximum number of acknowledgements that the host has not received: by then it has sent the whole window.
pub(crate) const MAX_ACKNOWLEDGEMENTS: usize = STDIN_WINDOW / ACKNOWLEDGED_AT_ONCE;

/// What of the window is used.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// Bytes that were received and not acknowledged.
    used: Cell<usize>,
    /// Those of them that were consumed.
    consumed: Cell<usize>,
}

/// The host has exceeded the window.
#[derive(Debug)]
pub(crate) struct WindowExceeded;

impl Window {
    /// Records that `count` bytes were received.
    pub(crate) fn receive(&self, count: usize) -> Result<(), WindowExceeded> {
        let used = self.used.get() + count;
        if used > STDIN_WINDOW {
            return Err(WindowExceeded);
        }
        self.used.set(used);
        Ok(())
    }

    /// Records that `count` bytes were consumed. Returns the message for the host if it is time for one.
    pub(crate) fn consume(&self, count: usize) -> Option<Reply> {
        let consumed = self.consumed.get() + count;
        if consumed < ACKNOWLEDGED_AT_ONCE {
            self.consumed.set(consumed);
            return None;
        }
        self.consumed.set(0);
        self.used.set(self.used.get().saturating_sub(consumed));
        Some(Reply::Acknowledged { bytes: u32::try_from(consumed).unwrap_or(u32::MAX) })
    }
}

/// The sending end of a queue.
#[derive(Debug)]
pub(crate) struct QueueSender {
    bytes: mpsc::UnboundedSender<Bytes>,
    window: Rc<Window>,
}

/// The receiving end of a queue.
#[derive(Debug)]
pub(crate) struct QueueReceiver {
    bytes: mpsc::UnboundedReceiver<Bytes>,
    window: Rc<Window>,
}

/// Creates a queue of at most the window.
pub(crate) fn queue() -> (QueueSender, QueueReceiver) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let window = Rc::new(Window::default());
    (QueueSender { bytes: sender, window: window.clone() }, QueueReceiver { bytes: receiver, window })
}

impl QueueSender {
    /// Queues `bytes`; empty bytes are the end.
    pub(crate) fn push(&self, bytes: Bytes) -> Result<(), WindowExceeded> {
        self.window.receive(bytes.len())?;
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

    /// Records that `count` bytes were consumed. Returns the message for the host if it is time for one.
    pub(crate) fn consume(&self, count: usize) -> Option<Reply> {
        self.window.consume(count)
    }
}

/// Sends `reply` to the host through the sender of `frames`; returns false if the connection has ended.
pub(crate) async fn send_reply(frames: &mpsc::Sender<Frame>, reply: &Reply) -> bool {
    match Frame::control(reply) {
        Ok(frame) => frames.send(frame).await.is_ok(),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_never_waits_for_bytes_that_were_consumed() {
        let window = Window::default();
        let (mut sent, mut free) = (0, STDIN_WINDOW);
        for count in
            [1, 1000, STDIN_WINDOW / 4 - 1, STDIN_WINDOW / 2, 7, STDIN_WINDOW].into_iter().cycle().take(99)
        {
            // A host that waits until it may send as much as it likes to.
            let count = count.min(free);
            assert!(count > 0, "no window after {sent} bytes");
            window.receive(count).unwrap();
            (sent, free) = (sent + count, free - count);
            if let Some(Reply::Acknowledged { bytes }) = window.consume(count) {
                free += bytes as usize;
            }
            assert!(free > STDIN_WINDOW / 4 * 3, "{free} bytes after {sent}");
        }
        window.receive(free).unwrap();
        assert!(window.receive(1).is_err());
    }
}
