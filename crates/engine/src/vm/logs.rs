//! Logs of a VM.

use std::{collections::HashSet, sync::Arc};

use banger_api::{ApiError, HappeningKind, Id, LogSource, ReadLog, VmState};

use super::vms::Vms;
use crate::{
    happenings::Following,
    logs::{About, Entries, LineFilter, Log},
    store::VmRecord,
    watch::{Parts, sending},
};

impl Vms {
    /// Returns the retained part of a VM's log. With `follow`, the stream continues until the VM is down.
    ///
    /// # Errors
    /// Returns an error if there is no such VM.
    pub fn logs(self: &Arc<Self>, reference: &str, read: ReadLog) -> Result<Parts, ApiError> {
        // Subscribe before reading the state, so that the VM's end is not missed.
        let happenings = self.services.store.happenings().follow();
        let vm = self.services.find_vm(reference)?;
        let dir = self.services.vm_dir(&vm);
        let (path, wanted) = match read.source {
            LogSource::Console => (dir.console_log(), LineFilter::All),
            LogSource::Agent => (dir.console_log(), LineFilter::OfAgent),
            LogSource::Vmm => (dir.vmm_log(), LineFilter::All),
            LogSource::Daemon => (
                self.services.dirs.daemon_log(),
                LineFilter::Entries(Entries { about: Some(about(&vm)), since: read.since }),
            ),
        };
        let log =
            Log { path, wanted, since: read.since, tail: read.tail, follow: read.follow && is_up(vm.state) };
        let vms = self.clone();
        Ok(sending(log, async move { vms.until_down(&vm.id, happenings).await }))
    }

    async fn until_down(&self, id: &Id, mut happenings: Following) {
        loop {
            match happenings.next().await.what {
                HappeningKind::VmState { id: of, to, .. } if of == *id && !is_up(to) => return,
                HappeningKind::VmDeleted { id: of, .. } if of == *id => return,
                HappeningKind::Missed { .. } if !self.is_up(id) => return,
                _ => {}
            }
        }
    }

    fn is_up(&self, id: &Id) -> bool {
        matches!(self.services.store.vm(id), Ok(Some(vm)) if is_up(vm.state))
    }
}

fn is_up(state: VmState) -> bool {
    !matches!(state, VmState::Created | VmState::Stopped | VmState::Error)
}

fn about(vm: &VmRecord) -> About {
    About {
        id: vm.id.clone(),
        name: vm.name.to_string(),
        created_at: vm.created_at,
        operations: HashSet::new(),
    }
}
