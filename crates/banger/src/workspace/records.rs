//! The records of a VM's workspaces: their lock, and what is written around a transfer.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use banger_api::{ApiError, ErrorKind, Vm};
use banger_proto::WorkspaceAction;
use banger_workspace::{LockedRecords, Record, Records, WorkspaceError};
use tokio::time::{Instant, sleep};

use super::error::to_api_error;
use crate::{error::CommandError, signals, ui::Ui};

/// Timeout for another process that works on the same VM's workspaces; it may be sending a large repository.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// Interval of attempts to take the lock: waiting in flock(2) has no time limit, and cannot be cancelled.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Locks the records of `vm`; waits for a process that has locked them.
pub(super) async fn lock(records: &Records, vm: &Vm, ui: &Ui) -> Result<LockedRecords, CommandError> {
    let phase = signals::cancellable();
    phase.run(wait_for_lock(records, vm, ui, LOCK_TIMEOUT)).await?.map_err(CommandError::from)
}

async fn wait_for_lock(
    records: &Records,
    vm: &Vm,
    ui: &Ui,
    limit: Duration,
) -> Result<LockedRecords, ApiError> {
    let start = Instant::now();
    let mut waits = false;
    loop {
        let locked = records.try_lock(vm.id.as_str());
        if let Some(locked) = locked.map_err(|error| to_api_error(error, Some(vm.name.as_str())))? {
            return Ok(locked);
        }
        let holder = records.lock_holder(vm.id.as_str());
        let holder = holder.map_or("another process".to_owned(), |pid| format!("process {pid}"));
        if start.elapsed() >= limit {
            let message = format!("{holder} is working on the workspaces of VM {}", vm.name);
            return Err(ApiError::new(ErrorKind::Busy, message).hint("wait until it has ended, or end it"));
        }
        if !waits {
            waits = true;
            ui.note(format_args!("Waiting for {holder}, which works on the workspaces of VM {}", vm.name));
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// The record of a workspace during a transfer. The thread that sends shares it, and cannot use it after its end.
#[derive(Debug, Clone)]
pub(super) struct Transaction {
    records: Arc<Mutex<Option<LockedRecords>>>,
    guest_path: Vec<u8>,
    action: WorkspaceAction,
    /// The record from before.
    previous: Option<Record>,
}

impl Transaction {
    pub(super) fn new(
        records: LockedRecords,
        guest_path: &[u8],
        action: WorkspaceAction,
    ) -> Result<Self, WorkspaceError> {
        let previous = records.find(guest_path)?;
        let records = Arc::new(Mutex::new(Some(records)));
        Ok(Self { records, guest_path: guest_path.to_vec(), action, previous })
    }

    /// Records that the transfer of `record` begins.
    pub(super) fn begin(&self, record: Record) -> Result<(), WorkspaceError> {
        self.records()
            .as_ref()
            .ok_or_else(|| WorkspaceError::Transfer(std::io::ErrorKind::BrokenPipe.into()))?
            .begin(record)
    }

    /// Records that the transfer of `record` has ended.
    pub(super) fn complete(&self, record: &Record) -> Result<(), WorkspaceError> {
        self.records().take().map_or(Ok(()), |records| records.complete(record))
    }

    /// Restores the record from before if `result` shows that the guest has refused a new workspace: it has nothing of
    /// it. After any other failure, the record says that the transfer may have ended.
    pub(super) fn undo_if_refused<T>(
        &self,
        result: Result<T, CommandError>,
    ) -> Result<Result<T, CommandError>, WorkspaceError> {
        if let Err(failure) = &result {
            let records = self.records().take();
            let kind = failure.error.as_ref().map(|error| error.kind);
            let is_refused =
                matches!(kind, Some(ErrorKind::AlreadyExists | ErrorKind::Busy | ErrorKind::NoSpace));
            if let Some(records) = records.filter(|_| is_refused && self.action == WorkspaceAction::Place) {
                records.undo(&self.guest_path, self.previous.as_ref())?;
            }
        }
        Ok(result)
    }

    fn records(&self) -> MutexGuard<'_, Option<LockedRecords>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_error_names_the_process_that_has_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::new(dir.path().join("workspaces"));
        let vm = serde_json::from_value(serde_json::json!({
            "id": "0123456789abcdef", "name": "box", "state": "running", "image": "tiny", "kernel": "k", "vcpu": 1,
            "memory": 0, "system_overlay_size": 0, "disk_size": 0, "rm": false,
            "created_at": "2026-01-01T00:00:00Z", "console": "",
        }));
        let (vm, ui) = (vm.unwrap(), Ui::for_test(false, false));
        let locked = wait_for_lock(&records, &vm, &ui, Duration::ZERO).await.unwrap();
        let error = wait_for_lock(&records, &vm, &ui, Duration::ZERO).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Busy);
        let holder = format!("process {} is working on the workspaces of VM box", std::process::id());
        assert_eq!(error.message, holder);
        drop(locked);
        wait_for_lock(&records, &vm, &ui, Duration::ZERO).await.unwrap();
    }
}
