//! Reports the download progress of an image's layers, at a limited rate.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use banger_api::Digest;

use super::manifest::Layer;
use crate::Progress;

/// Minimum interval between two reports on a layer.
const INTERVAL: Duration = Duration::from_millis(100);

/// Reports the progress of each layer and of all together.
pub(super) struct Meter<'a> {
    progress: &'a dyn Progress,
    total: u64,
    parts: Mutex<HashMap<Digest, Part>>,
}

struct Part {
    done: u64,
    reported_at: Instant,
}

impl<'a> Meter<'a> {
    /// Creates a meter for layers of `total` bytes in all.
    pub(super) fn new(total: u64, progress: &'a dyn Progress) -> Self {
        Self { progress, total, parts: Mutex::default() }
    }

    /// Records that `done` bytes of `layer` are present.
    pub(super) fn set(&self, layer: &Layer, done: u64) {
        let now = Instant::now();
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let last_report = parts.get(&layer.digest).map(|part| part.reported_at);
        let due = last_report.is_none_or(|reported_at| now - reported_at >= INTERVAL) || done == layer.size;
        let reported_at = if due { now } else { last_report.unwrap_or(now) };
        parts.insert(layer.digest, Part { done, reported_at });
        if due {
            let sum = parts.values().map(|part| part.done).sum();
            // Report without the lock, because the listener may block.
            drop(parts);
            self.progress.part(&layer.digest.short(), done, Some(layer.size));
            self.progress.bytes(sum, Some(self.total));
        }
    }
}
