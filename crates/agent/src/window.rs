//! The bytes that the host may send to a program or socket which is slower, and a queue for them.

use std::{cell::Cell, rc::Rc};

use banger_proto::{Frame, Reply, STDIN_WINDOW};
use bytes::Bytes;
use tokio::sync::mpsc;

/// Consumed bytes that are acknowledged at once while more are waiting. A message costs more than many bytes in a guest
/// without KVM.
const ACKNOWLEDGED_AT_ONCE: usize = STDIN_WINDOW / 4;

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

    /// Records that `count` bytes were consumed, and whether more are waiting. Returns the number of bytes to acknowledge,
    /// if it is time to.
    pub(crate) fn consume(&self, count: usize, more: bool) -> Option<usize> {
        let consumed = self.consumed.get() + count;
        if consumed == 0 || (more && consumed < ACKNOWLEDGED_AT_ONCE) {
            self.consumed.set(consumed);
            return None;
        }
        self.consumed.set(0);
        self.used.set(self.used.get().saturating_sub(consumed));
        Some(consumed)
    }
}

/// Returns the message that acknowledges `count` bytes.
pub(crate) fn acknowledgement(count: usize) -> Reply {
    Reply::Acknowledged { bytes: u32::try_from(count).unwrap_or(u32::MAX) }
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

    /// Records that `count` bytes were consumed. Returns the message for the host, at once: a client that reads nothing
    /// until it has sent everything depends on all of the window.
    pub(crate) fn consume(&self, count: usize) -> Option<Reply> {
        self.window.consume(count, false).map(acknowledgement)
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
    fn the_host_gets_its_window_back() {
        let (window, mut free) = (Window::default(), STDIN_WINDOW);
        let counts = [1, 1000, STDIN_WINDOW / 4 - 1, STDIN_WINDOW / 2, 7, STDIN_WINDOW];
        for (number, count) in counts.into_iter().cycle().take(99).enumerate() {
            let count = count.min(free);
            window.receive(count).unwrap();
            free -= count;
            let more = number % 3 != 0;
            free += window.consume(count, more).unwrap_or(0);
            assert!(free > STDIN_WINDOW / 4 * 3, "{free} bytes after {number}");
            assert!(more || free == STDIN_WINDOW, "{free} bytes after {number}, where no more are waiting");
        }
        assert_eq!(window.consume(0, false), None);
        window.receive(free).unwrap();
        assert!(window.receive(1).is_err());
    }
}
