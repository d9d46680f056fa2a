//! The window of a program's input: bytes that may be sent before the guest acknowledges earlier ones.

use banger_api::ApiError;
use banger_proto::STDIN_WINDOW;
use tokio::sync::watch;

use crate::protocol::protocol_error;

/// The free bytes of a window. Both halves of a connection share it: one takes bytes, the other returns them.
#[derive(Debug, Clone)]
pub(crate) struct Window(watch::Sender<usize>);

impl Window {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(STDIN_WINDOW))
    }

    /// Returns the number of free bytes.
    pub(crate) fn free(&self) -> usize {
        *self.0.borrow()
    }

    /// Takes `bytes`, or all if fewer are free.
    pub(crate) fn take(&self, bytes: usize) {
        self.0.send_modify(|free| *free = free.saturating_sub(bytes));
    }

    /// Waits until at least `bytes` are free.
    pub(crate) async fn wait_for(&self, bytes: usize) {
        // The sender exists as long as `self`.
        let _ = self.0.subscribe().wait_for(|free| *free >= bytes).await;
    }

    /// Returns `bytes` that the guest has acknowledged.
    ///
    /// # Errors
    /// Returns an error if they are zero or were not sent.
    pub(crate) fn acknowledge(&self, bytes: usize) -> Result<(), ApiError> {
        let was_sent = self.0.send_if_modified(|free| {
            let was_sent = bytes > 0 && bytes <= STDIN_WINDOW - *free;
            if was_sent {
                *free += bytes;
            }
            was_sent
        });
        if was_sent { Ok(()) } else { Err(protocol_error("it acknowledged data that was not sent")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sent_bytes_are_acknowledged_and_only_once() {
        let window = Window::new();
        assert!(window.acknowledge(1).is_err());
        window.take(100);
        assert!(window.acknowledge(0).is_err());
        assert!(window.acknowledge(101).is_err());
        window.acknowledge(60).unwrap();
        assert!(window.acknowledge(41).is_err());
        window.acknowledge(40).unwrap();
        assert_eq!(window.free(), STDIN_WINDOW);
        window.take(STDIN_WINDOW + 1);
        assert_eq!(window.free(), 0);
        window.acknowledge(STDIN_WINDOW).unwrap();
    }

    #[tokio::test]
    async fn a_waiting_sender_continues_once_enough_is_acknowledged() {
        let window = Window::new();
        window.take(STDIN_WINDOW);
        let other = window.clone();
        let acknowledge = async move {
            other.acknowledge(1).unwrap();
            tokio::task::yield_now().await;
            other.acknowledge(9).unwrap();
        };
        tokio::join!(window.wait_for(10), acknowledge);
        assert_eq!(window.free(), 10);
    }
}
