//! Sampling what running VMs use, so that the next `vm stats` has something to compare with.

use std::{sync::Arc, time::Duration};

use banger_api::{Defaults, HappeningKind, VmState};

use super::{services::Services, stats::sample_cpu, vms::Vms};
use crate::error::EngineError;

/// Samples running VMs, as often as is configured, for ever. While none runs, waits until one does.
pub(crate) async fn sample(vms: Arc<Vms>) {
    let mut happenings = vms.services.store.happenings().follow();
    loop {
        match sample_all(&vms) {
            Ok(0) => loop {
                // Whatever was missed may have been it.
                if let HappeningKind::VmState { to: VmState::Running, .. } | HappeningKind::Missed { .. } =
                    happenings.next().await.what
                {
                    break;
                }
            },
            Ok(_) => tokio::time::sleep(interval(&vms.services)).await,
            Err(error) => {
                tracing::warn!(%error, "cannot sample what VMs use");
                tokio::time::sleep(interval(&vms.services)).await;
            }
        }
    }
}

fn interval(services: &Services) -> Duration {
    // Requests tell of a configuration that is broken.
    services.config.now().map_or(Defaults::STATS, |config| config.stats_interval()).as_duration()
}

/// Samples the running VMs, and says how many there are.
fn sample_all(vms: &Vms) -> Result<usize, EngineError> {
    let Vms { services, samples, .. } = vms;
    let vms: Vec<_> = services.store.vms()?.into_iter().filter(|vm| vm.handle.is_some()).collect();
    for vm in &vms {
        sample_cpu(services, samples, vm)?;
    }
    samples.keep(&vms.iter().map(|vm| &vm.id).collect());
    Ok(vms.len())
}
