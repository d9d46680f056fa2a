//! What happens, told to whoever follows, and remembered for a while.
//!
//! Told where it is recorded: rows by the store, operations by their table. So nothing happens untold.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use banger_api::{Happening, HappeningKind};
use jiff::Timestamp;
use tokio::sync::broadcast;

/// Happenings that are remembered.
const REMEMBERED: usize = 512;

/// Happenings that one who follows may lag behind; then it misses the oldest.
const BACKLOG: usize = 256;

/// Where happenings are told.
#[derive(Debug, Clone)]
pub(crate) struct Happenings {
    remembered: Arc<Mutex<VecDeque<Happening>>>,
    sender: broadcast::Sender<Happening>,
}

/// Happenings as they come. Never blocks who tells them.
#[derive(Debug)]
pub(crate) struct Following(broadcast::Receiver<Happening>);

impl Default for Happenings {
    fn default() -> Self {
        Self { remembered: Arc::default(), sender: broadcast::Sender::new(BACKLOG) }
    }
}

impl Happenings {
    /// Tells that `what` has just happened.
    pub(crate) fn tell(&self, what: HappeningKind) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let happening = Happening { time: Timestamp::now(), what };
        if remembered.len() == REMEMBERED {
            remembered.pop_front();
        }
        remembered.push_back(happening.clone());
        // Under the lock, so that all see the same order. Nobody may be following.
        let _ = self.sender.send(happening);
    }

    /// What happens from now on.
    pub(crate) fn follow(&self) -> Following {
        Following(self.sender.subscribe())
    }

    /// What is remembered, oldest first, and what happens from now on: between the two nothing is missed.
    pub(crate) fn remembered(&self) -> (Vec<Happening>, Following) {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        (remembered.iter().cloned().collect(), self.follow())
    }
}

impl Following {
    /// The next happening; of those that could not wait, how many there were.
    pub(crate) async fn next(&mut self) -> Happening {
        loop {
            match self.0.recv().await {
                Ok(happening) => return happening,
                Err(broadcast::error::RecvError::Lagged(count)) => {
                    return Happening { time: Timestamp::now(), what: HappeningKind::Missed { count } };
                }
                // The engine is gone, and with it all that could happen.
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nth(n: usize) -> HappeningKind {
        HappeningKind::DaemonStarted { version: n.to_string() }
    }

    #[tokio::test]
    async fn the_last_are_remembered_and_the_next_follow_them() {
        let happenings = Happenings::default();
        (0..REMEMBERED + 3).for_each(|n| happenings.tell(nth(n)));
        let (remembered, mut following) = happenings.remembered();
        let numbers: Vec<_> = remembered.into_iter().map(|happening| happening.what).collect();
        assert_eq!(numbers, (3..REMEMBERED + 3).map(nth).collect::<Vec<_>>());
        happenings.tell(nth(9));
        assert_eq!(following.next().await.what, nth(9));
    }

    #[tokio::test]
    async fn who_is_slow_is_told_how_much_is_missing_and_holds_up_nobody() {
        let happenings = Happenings::default();
        let (mut slow, mut other) = (happenings.follow(), happenings.follow());
        for n in 0..BACKLOG + 5 {
            happenings.tell(nth(n));
            assert_eq!(other.next().await.what, nth(n));
        }
        assert_eq!(slow.next().await.what, HappeningKind::Missed { count: 5 });
        for n in 5..BACKLOG + 5 {
            assert_eq!(slow.next().await.what, nth(n));
        }
    }
}
