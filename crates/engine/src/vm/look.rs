//! Compares a VM with its store record and repairs differences.

use banger_api::VmState;

use super::{process::Alive, revert::revert, services::Services};
use crate::{
    error::EngineError,
    store::{Scope, VmRecord},
    vmms::kind,
};

/// Checks an idle VM against its `record`. Repairs what it can, and returns the problems found.
pub(super) async fn look(
    services: &Services,
    record: &VmRecord,
    alive: &mut Alive,
) -> Result<Vec<String>, EngineError> {
    let mut findings = Vec::new();
    let mut found = |what: String| findings.push(format!("VM {} {what}", record.name));
    match record.state {
        VmState::Running | VmState::Paused if alive.vmm.is_some() => {
            if let Some(handle) = &record.handle
                && let Err(error) = banger_vmm::control(kind(handle.vmm)).answers(&handle.control).await
            {
                found(format!("is running, but its VMM does not answer: {error}"));
            }
            return Ok(findings);
        }
        VmState::Created | VmState::Stopped | VmState::Error => {}
        state => found(format!("was {state}, but none of its processes was running; it is down now")),
    }
    let held = services.store.journal_of(&record.id, Scope::Run)?;
    for row in &held {
        found(format!("was down but still held {}, which is released now", row.resource));
    }
    *alive = Alive::default();
    revert(&services.store, &record.id, Scope::Run).await?;
    if !matches!(record.state, VmState::Created | VmState::Stopped | VmState::Error) {
        services.store.set_vm_down(&record.id, Some("none of its processes was running"))?;
    }
    Ok(findings)
}
