//! Who has to do with which guest: the sessions that are open, and when there was one last.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use banger_api::Id;
use jiff::Timestamp;
use tokio::sync::Notify;

use crate::host::Host;

/// How often at most a VM's last use is written down: what a daemon that dies forgets of it is little.
const WRITTEN_EVERY: Duration = Duration::from_secs(60);

/// The uses of all VMs.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    vms: Mutex<HashMap<Id, Use>>,
    ended: Notify,
}

#[derive(Debug, Default)]
struct Use {
    open: usize,
    last: Option<Timestamp>,
    written: Option<Instant>,
}

/// An open session with a guest, from its tunnel's first byte to its last.
#[derive(Debug)]
pub struct Session {
    host: Arc<Host>,
    vm: Id,
}

impl Session {
    pub(crate) fn begin(host: &Arc<Host>, vm: &Id) -> Self {
        if host.uses.begin(vm, Instant::now()) {
            write_down(host, vm);
        }
        Self { host: host.clone(), vm: vm.clone() }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.host.uses.end(&self.vm, Instant::now()) {
            write_down(&self.host, &self.vm);
        }
    }
}

fn write_down(host: &Host, vm: &Id) {
    if let Err(error) = host.store.touch_vm(vm, Timestamp::now()) {
        tracing::warn!(%vm, %error, "its use is not written down");
    }
}

impl Uses {
    /// Open sessions with `vm`.
    pub(crate) fn open(&self, vm: &Id) -> usize {
        self.lock().get(vm).map_or(0, |one| one.open)
    }

    /// Open sessions with all VMs.
    pub(crate) fn all_open(&self) -> usize {
        self.lock().values().map(|one| one.open).sum()
    }

    /// Waits until no session is open.
    pub(crate) async fn none_open(&self) {
        loop {
            let ended = self.ended.notified();
            if self.all_open() == 0 {
                return;
            }
            ended.await;
        }
    }

    /// When somebody last had to do with the guest of `vm`, as far as this daemon knows.
    pub(crate) fn last(&self, vm: &Id) -> Option<Timestamp> {
        self.lock().get(vm)?.last
    }

    /// Lets go of a VM that is gone.
    pub(crate) fn forget(&self, vm: &Id) {
        self.lock().remove(vm);
    }

    /// One more session with `vm`; true when that is to be written down.
    fn begin(&self, vm: &Id, now: Instant) -> bool {
        let mut uses = self.lock();
        let one = uses.entry(vm.clone()).or_default();
        one.open += 1;
        one.used(now)
    }

    /// One session less; true when that is to be written down. The VM may be gone.
    fn end(&self, vm: &Id, now: Instant) -> bool {
        let is_due = self.lock().get_mut(vm).is_some_and(|one| {
            one.open = one.open.saturating_sub(1);
            one.used(now)
        });
        self.ended.notify_waiters();
        is_due
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Id, Use>> {
        self.vms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Use {
    /// Notes a use; true when it is to be written down.
    fn used(&mut self, now: Instant) -> bool {
        self.last = Some(Timestamp::now());
        let due = self.written.is_none_or(|written| now - written >= WRITTEN_EVERY);
        if due {
            self.written = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_counted_and_few_of_them_written_down() {
        let uses = Uses::default();
        let [one, other] = [[1; 8], [2; 8]].map(Id::from_random);
        let now = Instant::now();
        assert!(uses.begin(&one, now));
        assert!(!uses.begin(&one, now));
        assert!(uses.begin(&other, now), "each VM has its own");
        assert_eq!((uses.open(&one), uses.open(&other), uses.all_open()), (2, 1, 3));
        assert!(uses.end(&one, now + WRITTEN_EVERY));
        uses.forget(&other);
        assert!(!uses.end(&other, now + WRITTEN_EVERY));
        assert_eq!((uses.open(&one), uses.all_open()), (1, 1));
        assert!(uses.last(&one).is_some() && uses.last(&other).is_none());
    }

    #[tokio::test]
    async fn the_last_sessions_end_is_heard_of() {
        let uses = Uses::default();
        let vm = Id::from_random([1; 8]);
        uses.none_open().await;
        uses.begin(&vm, Instant::now());
        let mut waiting = std::pin::pin!(uses.none_open());
        assert!(tokio::time::timeout(Duration::ZERO, &mut waiting).await.is_err());
        uses.end(&vm, Instant::now());
        waiting.await;
    }
}
