//! The stale sweep: stops running VMs that have been unused for the configured time.

use std::{sync::Arc, time::Duration};

use banger_api::{AutoStop, EventKind, StopVm, VmState};
use jiff::{SignedDuration, Timestamp};

use super::vms::Vms;
use crate::{error::EngineError, store::VmRecord};

/// Interval between sweeps.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Stops unused VMs, in an endless loop.
pub(crate) async fn stop_idle(vms: Arc<Vms>) {
    loop {
        let after = stale_after(&vms);
        if let Some(after) = after
            && let Err(error) = stop_unused(&vms, after)
        {
            tracing::warn!(%error, "cannot check for unused VMs");
        }
        tokio::time::sleep(after.map_or(SWEEP_INTERVAL, |after| SWEEP_INTERVAL.min(after))).await;
    }
}

fn stale_after(vms: &Vms) -> Option<Duration> {
    // Requests report a broken configuration; the sweep then stops nothing.
    match vms.services.config.current().map(|config| config.auto_stop_stale_after()) {
        Ok(AutoStop::After(after)) => Some(after.as_duration()),
        Ok(AutoStop::Off) | Err(_) => None,
    }
}

fn stop_unused(vms: &Arc<Vms>, after: Duration) -> Result<(), EngineError> {
    let now = Timestamp::now();
    let sessions = &vms.services.sessions;
    for vm in vms.services.store.vms()? {
        let used = (sessions.count(&vm.id), sessions.last_used_at(&vm.id));
        if let Some(since) = unused_since(&vm, used, now, after) {
            stop(vms, vm, since);
        }
    }
    Ok(())
}

/// Returns since when a running VM has been unused, if that is longer than `after`. Considers the store's record, the
/// open sessions, and the last use, which may not be in the store yet.
fn unused_since(
    vm: &VmRecord,
    (sessions, last): (usize, Option<Timestamp>),
    now: Timestamp,
    after: Duration,
) -> Option<Timestamp> {
    let since = vm.last_used_at.max(vm.started_at).max(last)?;
    let unused = now.duration_since(since) >= SignedDuration::try_from(after).unwrap_or(SignedDuration::MAX);
    (vm.state == VmState::Running && sessions == 0 && unused).then_some(since)
}

/// Starts a graceful stop in the background. The VM's actor ignores a repeated request.
fn stop(vms: &Arc<Vms>, vm: VmRecord, since: Timestamp) {
    tracing::info!(vm = %vm.id, name = %vm.name, %since, "stopping an unused VM");
    match vms.stop(vm.id.as_str(), StopVm::default()) {
        Ok(mut events) => {
            vms.services.store.event_log().publish(EventKind::VmIdleStop { id: vm.id, name: vm.name, since });
            tokio::spawn(async move { while events.recv().await.is_some() {} });
        }
        Err(error) => tracing::warn!(vm = %vm.id, %error, "cannot stop an unused VM"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(state: VmState, started_at: Option<&str>, last_used_at: Option<&str>) -> VmRecord {
        let time = |text: &str| text.parse().unwrap();
        VmRecord {
            state,
            started_at: started_at.map(time),
            last_used_at: last_used_at.map(time),
            ..VmRecord::for_test()
        }
    }

    #[test]
    fn running_vms_without_recent_use_are_stale() {
        use VmState::{Paused, Running, Stopped};
        let (nine, ten) = (Some("2026-11-25T09:30:00Z"), Some("2026-11-25T10:00:00Z"));
        let now = "2026-11-25T10:30:00Z".parse().unwrap();
        let hour = Duration::from_secs(3600);
        for (vm, sessions, stale) in [
            (vm(Running, nine, nine), 0, true),
            (vm(Running, nine, None), 0, true),
            (vm(Running, nine, nine), 1, false),
            (vm(Running, nine, ten), 0, false),
            // Used before its last start.
            (vm(Running, ten, nine), 0, false),
            (vm(Paused, nine, nine), 0, false),
            (vm(Stopped, None, nine), 0, false),
        ] {
            assert_eq!(unused_since(&vm, (sessions, None), now, hour).is_some(), stale, "{vm:?} {sessions}");
        }
        let not_stored = ten.map(|ten| ten.parse().unwrap());
        assert!(unused_since(&vm(Running, nine, nine), (0, not_stored), now, hour).is_none());
        assert!(unused_since(&vm(Running, nine, nine), (0, None), now, Duration::MAX).is_none());
    }
}
