//! Events: sent to every follower, and kept for a while.
//!
//! Whatever records a change also reports it: the store for rows, the operation table for operations.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use banger_api::{Event, EventKind};
use jiff::Timestamp;
use tokio::sync::broadcast;

/// Maximum number of events kept.
const MAX_EVENTS: usize = 512;

/// Maximum number of events a follower may lag behind; beyond it, the follower misses the oldest.
const BACKLOG: usize = 256;

/// Receives events, keeps the latest and sends them to followers.
#[derive(Debug, Clone)]
pub(crate) struct EventLog {
    recent: Arc<Mutex<VecDeque<Event>>>,
    sender: broadcast::Sender<Event>,
}

/// A follower's stream of events. It never blocks the sender.
#[derive(Debug)]
pub(crate) struct EventStream(broadcast::Receiver<Event>);

impl Default for EventLog {
    fn default() -> Self {
        Self { recent: Arc::default(), sender: broadcast::Sender::new(BACKLOG) }
    }
}

impl EventLog {
    /// Reports that `kind` has just happened.
    pub(crate) fn publish(&self, kind: EventKind) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let event = Event { time: Timestamp::now(), kind };
        if recent.len() == MAX_EVENTS {
            recent.pop_front();
        }
        recent.push_back(event.clone());
        // Sent under the lock, so that all followers see the same order. Fails only without followers.
        let _ = self.sender.send(event);
    }

    /// Returns a stream of the events from now on.
    pub(crate) fn follow(&self) -> EventStream {
        EventStream(self.sender.subscribe())
    }

    /// Returns the kept events, oldest first, and a stream of the later ones, without a gap in between.
    pub(crate) fn recent_and_follow(&self) -> (Vec<Event>, EventStream) {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        (recent.iter().cloned().collect(), self.follow())
    }
}

impl EventStream {
    /// Returns the next event, or the number of missed ones if this follower lagged.
    pub(crate) async fn next(&mut self) -> Event {
        loop {
            match self.0.recv().await {
                Ok(event) => return event,
                Err(broadcast::error::RecvError::Lagged(count)) => {
                    return Event { time: Timestamp::now(), kind: EventKind::Missed { count } };
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

    fn nth(n: usize) -> EventKind {
        EventKind::DaemonStarted { version: n.to_string() }
    }

    #[tokio::test]
    async fn the_log_keeps_the_latest_events_and_streams_later_ones() {
        let log = EventLog::default();
        (0..MAX_EVENTS + 3).for_each(|n| log.publish(nth(n)));
        let (recent, mut stream) = log.recent_and_follow();
        let numbers: Vec<_> = recent.into_iter().map(|event| event.kind).collect();
        assert_eq!(numbers, (3..MAX_EVENTS + 3).map(nth).collect::<Vec<_>>());
        log.publish(nth(9));
        assert_eq!(stream.next().await.kind, nth(9));
    }

    #[tokio::test]
    async fn a_slow_follower_receives_a_missed_count_and_delays_no_other() {
        let log = EventLog::default();
        let (mut slow, mut other) = (log.follow(), log.follow());
        for n in 0..BACKLOG + 5 {
            log.publish(nth(n));
            assert_eq!(other.next().await.kind, nth(n));
        }
        assert_eq!(slow.next().await.kind, EventKind::Missed { count: 5 });
        for n in 5..BACKLOG + 5 {
            assert_eq!(slow.next().await.kind, nth(n));
        }
    }
}
