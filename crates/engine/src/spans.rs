//! Time spans of an operation's steps.

use std::sync::{Mutex, PoisonError};

use banger_api::Span;

/// Returns the current `CLOCK_MONOTONIC` time, in nanoseconds.
pub(crate) fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// The spans recorded so far. Concurrent steps record into the same list.
#[derive(Debug, Default)]
pub(crate) struct Spans(Mutex<Vec<Span>>);

impl Spans {
    /// Records a span that began at `start_ns` and ends now.
    pub(crate) fn end(&self, name: &str, start_ns: u64) {
        self.add(name, start_ns, now_ns());
    }

    pub(crate) fn add(&self, name: &str, start_ns: u64, end_ns: u64) {
        let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spans.push(Span { name: name.to_owned(), start_ns, end_ns });
    }

    /// Returns all spans, sorted by start time, and clears the list.
    pub(crate) fn take(&self) -> Vec<Span> {
        let mut spans = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        spans.sort_by_key(|span| (span.start_ns, std::cmp::Reverse(span.end_ns)));
        spans
    }
}
