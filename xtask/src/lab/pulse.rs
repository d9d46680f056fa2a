//! Detects a frozen lab by its heartbeat.
//!
//! QEMU's emulation of AMD's virtualisation can freeze, and everything that waits for the lab then waits forever.
//! That is the emulator's fault and says nothing about the code under test.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Maximum time between heartbeats. The lab sends one every five seconds, or later when it or the host is busy.
const SILENCE: Duration = Duration::from_secs(90);

/// Time of the last heartbeat. A lab that has not sent its first one is not frozen.
#[derive(Debug, Clone, Default)]
pub(super) struct Pulse(Arc<Mutex<Option<Instant>>>);

impl Pulse {
    /// Records a heartbeat.
    pub(super) fn beat(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Returns whether the lab has frozen.
    pub(super) fn has_stopped(&self) -> bool {
        self.silent_for(SILENCE)
    }

    fn silent_for(&self, silence: Duration) -> bool {
        let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.is_some_and(|heard| heard.elapsed() >= silence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_missed_only_after_its_first_word() {
        let pulse = Pulse::default();
        assert!(!pulse.silent_for(Duration::ZERO));
        pulse.beat();
        assert!(pulse.silent_for(Duration::ZERO) && !pulse.has_stopped());
    }
}
