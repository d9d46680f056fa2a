//! The lab's pulse. QEMU's emulation of AMD's virtualisation can get to where the lab stands still and whatever waits
//! for it waits for ever. That is the emulator's fault and says nothing about what is tested.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// For how long the lab may be silent. It says a word every five seconds; later, when it and the host have other work.
const SILENCE: Duration = Duration::from_secs(90);

/// When the lab was last heard of. It is not missed before its first word.
#[derive(Debug, Clone, Default)]
pub(super) struct Pulse(Arc<Mutex<Option<Instant>>>);

impl Pulse {
    /// It has said a word.
    pub(super) fn beat(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether it stands still.
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
