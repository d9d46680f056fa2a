//! Samples the CPU time of running VMs, so that the next `vm stats` has a value to compare with.

use std::{sync::Arc, time::Duration};

use banger_api::{Defaults, EventKind, VmState};

use super::{services::Services, stats::sample_cpu, vms::Vms};
use crate::error::EngineError;

/// Samples running VMs at the configured interval, in an endless loop. While no VM runs, waits for one.
pub(crate) async fn sample(vms: Arc<Vms>) {
    let mut events = vms.services.store.event_log().follow();
    loop {
        match sample_all(&vms) {
            Ok(0) => loop {
                // A missed event may have been the start of a VM.
                if let EventKind::VmState { to: VmState::Running, .. } | EventKind::Missed { .. } =
                    events.next().await.kind
                {
                    break;
                }
            },
            Ok(_) => tokio::time::sleep(interval(&vms.services)).await,
            Err(error) => {
                tracing::warn!(%error, "cannot sample the CPU time of VMs");
                tokio::time::sleep(interval(&vms.services)).await;
            }
        }
    }
}

fn interval(services: &Services) -> Duration {
    // Requests report a broken configuration.
    services.config.current().map_or(Defaults::STATS_INTERVAL, |config| config.stats_interval()).as_duration()
}

/// Samples the running VMs and returns their number.
fn sample_all(vms: &Vms) -> Result<usize, EngineError> {
    let Vms { services, samples, .. } = vms;
    let vms: Vec<_> = services.store.vms()?.into_iter().filter(|vm| vm.handle.is_some()).collect();
    for vm in &vms {
        sample_cpu(services, samples, vm)?;
    }
    samples.retain(&vms.iter().map(|vm| &vm.id).collect());
    Ok(vms.len())
}
