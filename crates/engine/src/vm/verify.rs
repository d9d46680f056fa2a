//! Compares a VM with its store record and repairs differences.

use banger_api::VmState;

use super::{process::VmProcesses, revert::revert, services::Services};
use crate::{
    error::EngineError,
    store::{Scope, VmRecord},
    vmms::kind,
};

/// Checks an idle VM against its `record`. Repairs what it can, and returns the problems found.
pub(super) async fn verify(
    services: &Services,
    record: &VmRecord,
    processes: &mut VmProcesses,
) -> Result<Vec<String>, EngineError> {
    let mut problems = Vec::new();
    let mut report = |what: String| problems.push(format!("VM {} {what}", record.name));
    match record.state {
        VmState::Running | VmState::Paused if processes.vmm.is_some() => {
            if let Some(handle) = &record.handle
                && let Err(error) = banger_vmm::control(kind(handle.vmm)).ping(&handle.control).await
            {
                report(format!("is running, but its VMM does not answer: {error}"));
            }
            return Ok(problems);
        }
        VmState::Created | VmState::Stopped | VmState::Error => {}
        state => report(format!("was {state}, but none of its processes was running; it is down now")),
    }
    let held = services.store.journal_of(&record.id, Scope::Run)?;
    for row in &held {
        report(format!("was down but still held {}, which is released now", row.resource));
    }
    *processes = VmProcesses::default();
    revert(&services.store, &record.id, Scope::Run).await?;
    if !matches!(record.state, VmState::Created | VmState::Stopped | VmState::Error) {
        services.store.set_vm_down(&record.id, Some("none of its processes was running"))?;
    }
    Ok(problems)
}
