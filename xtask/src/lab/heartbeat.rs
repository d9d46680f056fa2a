//! Detects a frozen lab by its heartbeat.
//!
//! QEMU's emulation of AMD's virtualisation can freeze, and everything that waits for the lab then waits forever.
//! That is the emulator's fault and says nothing about the code under test.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Maximum time between heartbeats. The lab sends one every five seconds, or later when it or the host is busy.
const MAX_SILENCE: Duration = Duration::from_secs(90);

/// Time of the last heartbeat. A lab that has not sent its first one is not frozen.
#[derive(Debug, Clone, Default)]
pub(super) struct Heartbeat(Arc<Mutex<Option<Instant>>>);

impl Heartbeat {
    /// Records a heartbeat.
    pub(super) fn record(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Returns whether the lab has frozen.
    pub(super) fn has_stopped(&self) -> bool {
        self.silent_for(MAX_SILENCE)
    }

    fn silent_for(&self, silence: Duration) -> bool {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|last| last.elapsed() >= silence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_is_missed_only_after_the_first_one() {
        let heartbeat = Heartbeat::default();
        assert!(!heartbeat.silent_for(Duration::ZERO));
        heartbeat.record();
        assert!(heartbeat.silent_for(Duration::ZERO) && !heartbeat.has_stopped());
    }
}
