//! Looking whether a VM is as the store says, and making it so.

use banger_api::VmState;
use tokio::sync::mpsc;

use super::{process::Alive, resource::revert};
use crate::{
    error::EngineError,
    host::Host,
    store::{Scope, VmRecord},
    vmms::kind,
};

/// Tells what is amiss with the VM of `record`, to which nothing is being done, and mends what can be mended.
pub(super) async fn look(
    host: &Host,
    record: &VmRecord,
    alive: &mut Alive,
    tell: mpsc::UnboundedSender<String>,
) -> Result<(), EngineError> {
    let found = |what: String| {
        // Whoever asked may have gone.
        let _ = tell.send(format!("VM {} {what}", record.name));
    };
    match record.state {
        VmState::Running | VmState::Paused if !alive.needed.is_empty() => {
            if let Some(handle) = &record.handle
                && let Ok(vmm) = host.vmms.of_kind(kind(handle.vmm)).await
                && let Err(error) = vmm.answers(&handle.control).await
            {
                found(format!("runs, but its VMM does not answer: {error}; `banger vm kill` ends it"));
            }
            return Ok(());
        }
        VmState::Created | VmState::Stopped | VmState::Error => {}
        state => found(format!("was {state}, but nothing runs for it: it is down now")),
    }
    let held = host.store.journal_of(&record.id, Scope::Run)?;
    for row in &held {
        found(format!("was down and still held something, which is given back: {}", row.resource));
    }
    *alive = Alive::default();
    revert(&host.store, &record.id, Scope::Run).await?;
    if !matches!(record.state, VmState::Created | VmState::Stopped | VmState::Error) {
        host.store.set_vm_down(&record.id, Some("nothing ran for it"))?;
    }
    Ok(())
}
