//! Events: sent to every follower, and kept for a while.
//!
//! Whatever records a change also reports it: the store for rows, the operation table for operations.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use banger_api::{Happening, HappeningKind};
use jiff::Timestamp;
use tokio::sync::broadcast;

/// Maximum number of events kept.
const REMEMBERED: usize = 512;

/// Maximum number of events a follower may lag behind; beyond it, the follower misses the oldest.
const BACKLOG: usize = 256;

/// Receives events, keeps the latest and sends them to followers.
#[derive(Debug, Clone)]
pub(crate) struct Happenings {
    remembered: Arc<Mutex<VecDeque<Happening>>>,
    sender: broadcast::Sender<Happening>,
}

/// A follower's stream of events. It never blocks the sender.
#[derive(Debug)]
pub(crate) struct Following(broadcast::Receiver<Happening>);

impl Default for Happenings {
    fn default() -> Self {
        Self { remembered: Arc::default(), sender: broadcast::Sender::new(BACKLOG) }
    }
}

impl Happenings {
    /// Reports that `what` has just happened.
    pub(crate) fn tell(&self, what: HappeningKind) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let happening = Happening { time: Timestamp::now(), what };
        if remembered.len() == REMEMBERED {
            remembered.pop_front();
        }
        remembered.push_back(happening.clone());
        // Sent under the lock, so that all followers see the same order. Fails only without followers.
        let _ = self.sender.send(happening);
    }

    /// Returns a stream of the events from now on.
    pub(crate) fn follow(&self) -> Following {
        Following(self.sender.subscribe())
    }

    /// Returns the kept events, oldest first, and a stream of the later ones, without a gap in between.
    pub(crate) fn remembered(&self) -> (Vec<Happening>, Following) {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        (remembered.iter().cloned().collect(), self.follow())
    }
}

impl Following {
    /// Returns the next event, or the number of missed ones if this follower lagged.
    pub(crate) async fn next(&mut self) -> Happening {
        loop {
            match self.0.recv().await {
                Ok(happening) => return happening,
                Err(broadcast::error::RecvError::Lagged(count)) => {
                    return Happening { time: Timestamp::now(), what: HappeningKind::Missed { count } };
                }
                // The engine is gone, so no more events will come.
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
