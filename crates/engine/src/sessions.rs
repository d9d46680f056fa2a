//! Sessions with guests: how many are open, and when each VM last had one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use banger_api::Id;
use jiff::Timestamp;
use tokio::sync::Notify;

use crate::store::Store;

/// Minimum time between two writes of a VM's last use to the store. A daemon that dies loses no more than that.
const WRITTEN_EVERY: Duration = Duration::from_secs(60);

/// The open sessions of all VMs.
#[derive(Debug)]
pub(crate) struct Sessions {
    store: Arc<Store>,
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
    sessions: Arc<Sessions>,
    vm: Id,
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.sessions.ends(&self.vm, Instant::now()) {
            self.sessions.write_down(&self.vm);
        }
    }
}

impl Sessions {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self { store, vms: Mutex::default(), ended: Notify::new() }
    }

    /// Opens a session with `vm`.
    pub(crate) fn open(self: &Arc<Self>, vm: &Id) -> Session {
        if self.begins(vm, Instant::now()) {
            self.write_down(vm);
        }
        Session { sessions: self.clone(), vm: vm.clone() }
    }

    fn write_down(&self, vm: &Id) {
        if let Err(error) = self.store.touch_vm(vm, Timestamp::now()) {
            tracing::warn!(%vm, %error, "cannot record the last use of the VM");
        }
    }

    /// Returns how many sessions with `vm` are open.
    pub(crate) fn count(&self, vm: &Id) -> usize {
        self.lock().get(vm).map_or(0, |one| one.open)
    }

    /// Returns how many sessions are open in all.
    pub(crate) fn total(&self) -> usize {
        self.lock().values().map(|one| one.open).sum()
    }

    /// Waits until no session is open.
    pub(crate) async fn none_open(&self) {
        loop {
            let ended = self.ended.notified();
            if self.total() == 0 {
                return;
            }
            ended.await;
        }
    }

    /// Returns when the guest of `vm` was last used, as far as this daemon knows.
    pub(crate) fn last(&self, vm: &Id) -> Option<Timestamp> {
        self.lock().get(vm)?.last
    }

    /// Forgets a deleted VM.
    pub(crate) fn forget(&self, vm: &Id) {
        self.lock().remove(vm);
    }

    /// Counts a new session with `vm`; returns true if the use must be written to the store.
    fn begins(&self, vm: &Id, now: Instant) -> bool {
        let mut uses = self.lock();
        let one = uses.entry(vm.clone()).or_default();
        one.open += 1;
        one.used(now)
    }

    /// Counts an ended session; returns true if the use must be written to the store. The VM may be deleted already.
    fn ends(&self, vm: &Id, now: Instant) -> bool {
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
    /// Records a use; returns true if it must be written to the store.
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

    fn sessions_in(dir: &std::path::Path) -> Sessions {
        Sessions::new(Arc::new(Store::open(&dir.join("store.db")).unwrap()))
    }

    #[test]
    fn sessions_are_counted_and_few_of_them_written_down() {
        let dir = tempfile::tempdir().unwrap();
        let sessions = sessions_in(dir.path());
        let [one, other] = [[1; 8], [2; 8]].map(Id::from_random);
        let now = Instant::now();
        assert!(sessions.begins(&one, now));
        assert!(!sessions.begins(&one, now));
        assert!(sessions.begins(&other, now), "each VM has its own sessions");
        assert_eq!((sessions.count(&one), sessions.count(&other), sessions.total()), (2, 1, 3));
        assert!(sessions.ends(&one, now + WRITTEN_EVERY));
        sessions.forget(&other);
        assert!(!sessions.ends(&other, now + WRITTEN_EVERY));
        assert_eq!((sessions.count(&one), sessions.total()), (1, 1));
        assert!(sessions.last(&one).is_some() && sessions.last(&other).is_none());
    }

    #[tokio::test]
    async fn the_last_sessions_end_is_heard_of() {
        let dir = tempfile::tempdir().unwrap();
        let sessions = sessions_in(dir.path());
        let vm = Id::from_random([1; 8]);
        sessions.none_open().await;
        sessions.begins(&vm, Instant::now());
        let mut waiting = std::pin::pin!(sessions.none_open());
        assert!(tokio::time::timeout(Duration::ZERO, &mut waiting).await.is_err());
        sessions.ends(&vm, Instant::now());
        waiting.await;
    }
}
