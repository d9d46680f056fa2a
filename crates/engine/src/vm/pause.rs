//! Pauses and resumes a VM's virtual CPUs.

use banger_api::{ApiError, ErrorKind, Remedy, SubjectKind, VmState};
use banger_proto::{Configure, Reply, Request};
use jiff::Timestamp;

use super::{
    guest::{Agent, unexpected},
    services::Services,
};
use crate::{
    error::EngineError,
    store::{Handle, VmRecord},
    vmms::kind,
};

/// Pauses a running VM.
pub(super) async fn pause(services: &Services, record: &VmRecord) -> Result<(), EngineError> {
    let handle = handle(record)?;
    let vmm = banger_vmm::control(kind(handle.vmm));
    // Recorded first, so that the state explains why the guest does not answer.
    services.store.set_vm_state(&record.id, VmState::Paused)?;
    if let Err(error) = vmm.pause(&handle.control).await {
        services.store.set_vm_state(&record.id, VmState::Running)?;
        return Err(error.into());
    }
    Ok(())
}

/// Resumes a paused VM and sets its guest's clock.
pub(super) async fn resume(services: &Services, record: &VmRecord) -> Result<(), EngineError> {
    let handle = handle(record)?;
    banger_vmm::control(kind(handle.vmm)).resume(&handle.control).await?;
    services.store.set_vm_state(&record.id, VmState::Running)?;
    let configure = Request::Configure(Box::new(Configure {
        hostname: Some(record.name.to_string()),
        clock_ns: u64::try_from(Timestamp::now().as_nanosecond()).ok(),
        ..Configure::default()
    }));
    let reply = async {
        let stream = banger_vmm::connect(&handle.guest, handle.agent_port).await?;
        Agent::handshake(stream).await?.0.request(&configure).await
    };
    match reply.await {
        Ok(Reply::Configured) => Ok(()),
        Ok(other) => Err(agent_unreachable(record, &unexpected(&other).to_string())),
        Err(error) => Err(agent_unreachable(record, &error.to_string())),
    }
}

fn handle(record: &VmRecord) -> Result<&Handle, EngineError> {
    record.handle.as_ref().ok_or_else(|| {
        ApiError::new(ErrorKind::NotRunning, format!("VM {} is not running", record.name)).into()
    })
}

fn agent_unreachable(record: &VmRecord, why: &str) -> EngineError {
    let VmRecord { name, .. } = record;
    ApiError::new(
        ErrorKind::Guest,
        format!("VM {name} is running again, but its guest agent cannot be reached: {why}"),
    )
    .about(SubjectKind::Vm, name)
    .remedy(Remedy::RestartVm)
    .into()
}
