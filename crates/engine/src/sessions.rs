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
const WRITE_INTERVAL: Duration = Duration::from_secs(60);

/// The open sessions of all VMs.
#[derive(Debug)]
pub(crate) struct Sessions {
    store: Arc<Store>,
    vms: Mutex<HashMap<Id, Usage>>,
    ended: Notify,
}

#[derive(Debug, Default)]
struct Usage {
    open: usize,
    /// Open connections to its published ports, which do not keep the daemon from stopping.
    ports: usize,
    last_used_at: Option<Timestamp>,
    written: Option<Instant>,
}

/// An open session with a guest, from its tunnel's first byte to its last.
#[derive(Debug)]
pub struct Session {
    sessions: Arc<Sessions>,
    vm: Id,
    kind: SessionKind,
}

/// The way of a session to the guest.
#[derive(Debug, Clone, Copy)]
enum SessionKind {
    /// A tunnel of a client.
    Tunnel,
    /// A connection to a published port.
    Port,
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.sessions.end(&self.vm, self.kind, Instant::now()) {
            self.sessions.store_last_use(&self.vm);
        }
    }
}

impl Sessions {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self { store, vms: Mutex::default(), ended: Notify::new() }
    }

    /// Opens a session with `vm`.
    pub(crate) fn open(self: &Arc<Self>, vm: &Id) -> Session {
        self.open_kind(vm, SessionKind::Tunnel)
    }

    /// Opens a session for a connection to a published port of `vm`. The VM is in use meanwhile.
    pub(crate) fn open_port(self: &Arc<Self>, vm: &Id) -> Session {
        self.open_kind(vm, SessionKind::Port)
    }

    fn open_kind(self: &Arc<Self>, vm: &Id, kind: SessionKind) -> Session {
        if self.begin(vm, kind, Instant::now()) {
            self.store_last_use(vm);
        }
        Session { sessions: self.clone(), vm: vm.clone(), kind }
    }

    fn store_last_use(&self, vm: &Id) {
        if let Err(error) = self.store.touch_vm(vm, Timestamp::now()) {
            tracing::warn!(%vm, %error, "cannot record the last use of the VM");
        }
    }

    /// Returns how many sessions with `vm` are open, those of its published ports included.
    pub(crate) fn count(&self, vm: &Id) -> usize {
        self.lock().get(vm).map_or(0, |usage| usage.open + usage.ports)
    }

    /// Returns how many sessions are open in all, without those of published ports.
    pub(crate) fn total(&self) -> usize {
        self.lock().values().map(|usage| usage.open).sum()
    }

    /// Waits until no session is open, except those of published ports.
    pub(crate) async fn all_closed(&self) {
        loop {
            let ended = self.ended.notified();
            if self.total() == 0 {
                return;
            }
            ended.await;
        }
    }

    /// Returns when the guest of `vm` was last used, as far as this daemon knows.
    pub(crate) fn last_used_at(&self, vm: &Id) -> Option<Timestamp> {
        self.lock().get(vm)?.last_used_at
    }

    /// Forgets a deleted VM.
    pub(crate) fn forget(&self, vm: &Id) {
        self.lock().remove(vm);
    }

    /// Counts a new session with `vm`; returns true if the use must be written to the store.
    fn begin(&self, vm: &Id, kind: SessionKind, now: Instant) -> bool {
        let mut usages = self.lock();
        let usage = usages.entry(vm.clone()).or_default();
        *usage.count(kind) += 1;
        usage.record_use(now)
    }

    /// Counts an ended session; returns true if the use must be written to the store. The VM may be deleted already.
    fn end(&self, vm: &Id, kind: SessionKind, now: Instant) -> bool {
        let is_due = self.lock().get_mut(vm).is_some_and(|usage| {
            let open = usage.count(kind);
            *open = open.saturating_sub(1);
            usage.record_use(now)
        });
        self.ended.notify_waiters();
        is_due
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Id, Usage>> {
        self.vms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Usage {
    /// Returns the number of open sessions of a kind.
    fn count(&mut self, kind: SessionKind) -> &mut usize {
        match kind {
            SessionKind::Tunnel => &mut self.open,
            SessionKind::Port => &mut self.ports,
        }
    }

    /// Records a use; returns true if it must be written to the store.
    fn record_use(&mut self, now: Instant) -> bool {
        self.last_used_at = Some(Timestamp::now());
        let due = self.written.is_none_or(|written| now - written >= WRITE_INTERVAL);
        if due {
            self.written = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::{
        SessionKind::{Port, Tunnel},
        *,
    };

    fn sessions_in(dir: &std::path::Path) -> Sessions {
        Sessions::new(Arc::new(Store::open(&dir.join("store.db")).unwrap()))
    }

    #[test]
    fn sessions_are_counted_and_stored_at_most_once_per_interval() {
        let dir = tempfile::tempdir().unwrap();
        let sessions = sessions_in(dir.path());
        let [one, other] = [[1; 8], [2; 8]].map(Id::from_random);
        let now = Instant::now();
        assert!(sessions.begin(&one, Tunnel, now));
        assert!(!sessions.begin(&one, Tunnel, now));
        assert!(sessions.begin(&other, Tunnel, now), "each VM has its own sessions");
        assert_eq!((sessions.count(&one), sessions.count(&other), sessions.total()), (2, 1, 3));
        assert!(sessions.end(&one, Tunnel, now + WRITE_INTERVAL));
        sessions.forget(&other);
        assert!(!sessions.end(&other, Tunnel, now + WRITE_INTERVAL));
        assert_eq!((sessions.count(&one), sessions.total()), (1, 1));
        assert!(sessions.last_used_at(&one).is_some() && sessions.last_used_at(&other).is_none());
    }

    #[test]
    fn a_connection_to_a_published_port_uses_the_vm_but_is_no_session_of_the_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let sessions = sessions_in(dir.path());
        let vm = Id::from_random([1; 8]);
        sessions.begin(&vm, Port, Instant::now());
        assert_eq!((sessions.count(&vm), sessions.total()), (1, 0));
        assert!(sessions.last_used_at(&vm).is_some());
        sessions.end(&vm, Port, Instant::now());
        assert_eq!(sessions.count(&vm), 0);
    }

    #[tokio::test]
    async fn all_closed_waits_until_the_last_session_ends() {
        let dir = tempfile::tempdir().unwrap();
        let sessions = sessions_in(dir.path());
        let vm = Id::from_random([1; 8]);
        sessions.all_closed().await;
        sessions.begin(&vm, Tunnel, Instant::now());
        let mut waiting = std::pin::pin!(sessions.all_closed());
        assert!(tokio::time::timeout(Duration::ZERO, &mut waiting).await.is_err());
        sessions.end(&vm, Tunnel, Instant::now());
        waiting.await;
    }
}
