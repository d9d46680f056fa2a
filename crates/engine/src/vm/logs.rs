//! Logs of a VM.

use std::{collections::HashSet, sync::Arc};

use banger_api::{ApiError, EventKind, Id, LogSource, ReadLog, VmState};

use super::vms::Vms;
use crate::{
    event_log::EventStream,
    logs::{EntryFilter, LineFilter, Log, VmFilter},
    store::VmRecord,
    watch::{ByteStream, stream_log},
};

impl Vms {
    /// Returns the retained part of a VM's log. With `follow`, the stream continues until the VM is down.
    ///
    /// # Errors
    /// Returns an error if there is no such VM.
    pub fn logs(self: &Arc<Self>, reference: &str, read: ReadLog) -> Result<ByteStream, ApiError> {
        // Subscribe before reading the state, so that the VM's end is not missed.
        let events = self.services.store.event_log().follow();
        let vm = self.services.find_vm(reference)?;
        let dir = self.services.vm_dir(&vm);
        let (path, filter) = match read.source {
            LogSource::Console => (dir.console_log(), LineFilter::All),
            LogSource::Agent => (dir.console_log(), LineFilter::Agent),
            LogSource::Vmm => (dir.vmm_log(), LineFilter::All),
            LogSource::Daemon => (
                self.services.dirs.daemon_log(),
                LineFilter::Entries(EntryFilter { vm: Some(vm_filter(&vm)), since: read.since }),
            ),
        };
        let log =
            Log { path, filter, since: read.since, tail: read.tail, follow: read.follow && is_up(vm.state) };
        let vms = self.clone();
        Ok(stream_log(log, async move { vms.wait_until_down(&vm.id, events).await }))
    }

    /// Waits until the VM is down.
    pub(super) async fn wait_until_down(&self, id: &Id, mut events: EventStream) {
        loop {
            match events.next().await.kind {
                EventKind::VmState { id: event_id, to, .. } if event_id == *id && !is_up(to) => return,
                EventKind::VmDeleted { id: event_id, .. } if event_id == *id => return,
                EventKind::Missed { .. } if !self.is_up(id) => return,
                _ => {}
            }
        }
    }

    fn is_up(&self, id: &Id) -> bool {
        matches!(self.services.store.vm(id), Ok(Some(vm)) if is_up(vm.state))
    }
}

pub(super) fn is_up(state: VmState) -> bool {
    !matches!(state, VmState::Created | VmState::Stopped | VmState::Error)
}

fn vm_filter(vm: &VmRecord) -> VmFilter {
    VmFilter {
        id: vm.id.clone(),
        name: vm.name.to_string(),
        created_at: vm.created_at,
        operations: HashSet::new(),
    }
}
