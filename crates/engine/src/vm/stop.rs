//! Stops a VM through its agent, by Ctrl-Alt-Del, or by force; kills it; deletes it.

use std::time::Duration;

use banger_api::{ApiError, ErrorKind, Id, KillSignal, Remedy, SubjectKind, VmState};
use banger_proto::{PowerOff, Reply, Request};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    console::{self, CONSOLE_LINES},
    guest::Agent,
    process::{ExitReason, LiveProcess, ProcessExit, VmProcesses},
    revert::revert,
    services::Services,
};
use crate::{
    error::EngineError,
    files::remove_dir,
    layout::VmDir,
    operation::Context,
    store::{Handle, Scope, VmRecord},
    vmms::kind,
};

/// Timeout for a VMM to exit after a signal that it may handle.
const SIGNAL_TIMEOUT: Duration = Duration::from_secs(30);

/// Stops a running VM: through its agent, by Ctrl-Alt-Del, and then by force. The agent has half of `grace`,
/// Ctrl-Alt-Del the rest. A forced end loses data that the guest has not synced.
pub(super) async fn stop(
    services: &Services,
    record: &VmRecord,
    context: &Context,
    processes: &mut VmProcesses,
    grace: Duration,
) -> Result<(), EngineError> {
    services.store.set_vm_state(&record.id, VmState::Stopping)?;
    context.stage("stopping VM").await;
    if let (Some(vmm), Some(handle)) = (&processes.vmm, &record.handle) {
        let deadline = Instant::now() + grace;
        let graceful = async {
            if record.state == VmState::Paused {
                wake(handle).await;
            }
            power_off(handle, vmm, grace).await || ctrl_alt_del(handle, vmm, deadline).await
        };
        let ended = tokio::select! {
            ended = graceful => ended,
            () = context.cancel.cancelled() => false,
        };
        if !ended && !context.cancel.is_cancelled() {
            context
                .warn(format!(
                    "VM {} did not power off within {} s and was killed; unsynced data is lost",
                    record.name,
                    grace.as_secs()
                ))
                .await;
        }
        if ended {
            processes.wait_for_console().await;
        }
    }
    bring_down(services, &record.id, processes, None).await
}

/// Asks the agent to power off. Returns true if the VMM exits within half of `grace`.
async fn power_off(handle: &Handle, vmm: &LiveProcess, grace: Duration) -> bool {
    let deadline = Instant::now() + grace / 2;
    let grace_ms = u64::try_from(grace.as_millis()).ok();
    let exchange = async {
        let (mut agent, _) =
            Agent::handshake(banger_vmm::connect(&handle.guest, handle.agent_port).await?).await?;
        agent.request(&Request::PowerOff(PowerOff { grace_ms })).await
    };
    match timeout_at(deadline, exchange).await {
        Ok(Ok(Reply::PoweringOff)) => timeout_at(deadline, vmm.wait()).await.is_ok(),
        Ok(Ok(reply)) => {
            tracing::warn!(reply = reply.name(), "the guest agent does not power off");
            false
        }
        // The guest may have ended before its answer was sent.
        Ok(Err(error)) => {
            tracing::warn!(%error, "the guest agent does not power off");
            timeout_at(Instant::now(), vmm.wait()).await.is_ok()
        }
        Err(_) => false,
    }
}

async fn ctrl_alt_del(handle: &Handle, vmm: &LiveProcess, deadline: Instant) -> bool {
    let pressed = banger_vmm::control(kind(handle.vmm)).ctrl_alt_del(&handle.control);
    match timeout_at(deadline, pressed).await {
        Ok(Ok(())) => timeout_at(deadline, vmm.wait()).await.is_ok(),
        Ok(Err(error)) => {
            tracing::warn!(%error, "cannot send Ctrl-Alt-Del");
            false
        }
        Err(_) => false,
    }
}

/// Resumes a paused guest, which cannot power itself off.
async fn wake(handle: &Handle) {
    if let Err(error) = banger_vmm::control(kind(handle.vmm)).resume(&handle.control).await {
        tracing::warn!(%error, "cannot resume the VM before the stop");
    }
}

/// Sends a signal to a VM's VMM and waits until it exits.
pub(super) async fn kill(
    services: &Services,
    record: &VmRecord,
    context: &Context,
    processes: &mut VmProcesses,
    signal: KillSignal,
) -> Result<(), EngineError> {
    if let Some(vmm) = processes.vmm.as_ref().filter(|_| signal != KillSignal::Kill) {
        vmm.signal(signal.number())?;
        let ended = context.unless_cancelled(async { Ok(timeout(SIGNAL_TIMEOUT, vmm.wait()).await.is_ok()) });
        if !ended.await? {
            let VmRecord { name, .. } = record;
            let message = format!(
                "VM {name} did not end within {} s after signal {}",
                SIGNAL_TIMEOUT.as_secs(),
                signal.number()
            );
            let error = ApiError::new(ErrorKind::Timeout, message).about(SubjectKind::Vm, name);
            return Err(error.remedy(Remedy::KillVm).into());
        }
        processes.wait_for_console().await;
    }
    bring_down(services, &record.id, processes, None).await
}

/// Releases the run's resources, which ends the VM if it still runs.
async fn bring_down(
    services: &Services,
    id: &Id,
    processes: &mut VmProcesses,
    error: Option<&str>,
) -> Result<(), EngineError> {
    *processes = VmProcesses::default();
    revert(&services.store, id, Scope::Run).await?;
    services.store.set_vm_down(id, error)?;
    Ok(())
}

/// Deletes a VM with its disks, by force if it runs. The first step cannot be undone: a VM whose disks are deleted
/// must not return with empty ones.
pub(super) async fn delete(
    services: &Services,
    id: &Id,
    processes: &mut VmProcesses,
) -> Result<(), EngineError> {
    services.store.mark_vm_for_deletion(id)?;
    *processes = VmProcesses::default();
    finish_deletion(services, id).await
}

/// Deletes everything of a VM that is marked for deletion, or that no client knows, and its row.
pub(crate) async fn finish_deletion(services: &Services, id: &Id) -> Result<(), EngineError> {
    revert(&services.store, id, Scope::Vm).await?;
    // Those of an earlier build may have no row in the journal.
    remove_dir(VmDir::new(&services.dirs, id).path())?;
    services.store.delete_vm(id)?;
    Ok(())
}

/// Returns whether the guest's kernel has panicked, and the last lines of its console.
pub(crate) fn console_tail(dir: &VmDir) -> (bool, Vec<String>) {
    let lines = console::last_lines(&dir.console_log(), CONSOLE_LINES);
    (lines.iter().any(|line| line.contains("Kernel panic")), lines)
}

/// Records that a VM has ended by itself, and releases its resources. The state becomes `stopped` if the guest
/// powered itself off, and `error` if it failed.
pub(super) async fn clean_up(
    services: &Services,
    id: &Id,
    processes: &mut VmProcesses,
    exit: ProcessExit,
) -> Result<(), EngineError> {
    processes.wait_for_console().await;
    let (panicked, lines) = console_tail(&VmDir::new(&services.dirs, id));
    let is_clean = exit.reason == ExitReason::Exited(0) && !panicked;
    let error = format!("its {exit}\n{}", lines.join("\n"));
    bring_down(services, id, processes, (!is_clean).then_some(error.as_str())).await
}
