//! Taking a VM down: with its agent's help, by Ctrl-Alt-Del, or by force; and deleting it.

use std::time::Duration;

use banger_api::{Id, VmState, Vmm as ApiVmm};
use banger_proto::{AGENT_PORT, PowerOff, Reply, Request};
use banger_vmm::VmmKind;
use tokio::time::{Instant, timeout_at};

use super::{
    console,
    guest::Agent,
    process::{Alive, Process},
    resource::revert,
    start::CONSOLE_LINES,
};
use crate::{
    error::EngineError,
    host::Host,
    operation::Context,
    store::{Handle, Scope, VmRecord},
};

/// How long an orderly power-off may take (PRODUCT: graceful stop). Half of it is the agent's.
const GRACE: Duration = Duration::from_secs(10);

/// Stops a running VM. What its programs have written is kept.
pub(super) async fn stop(
    host: &Host,
    record: &VmRecord,
    context: &Context,
    alive: &mut Alive,
) -> Result<(), EngineError> {
    host.store.set_vm_state(&record.id, VmState::Stopping)?;
    context.stage("stopping VM").await;
    if let (Some(vmm), Some(handle)) = (alive.needed.last(), &record.handle) {
        let deadline = Instant::now() + GRACE;
        let orderly = async {
            power_off(handle, vmm, deadline - GRACE / 2).await
                || ctrl_alt_del(host, handle, vmm, deadline).await
        };
        let ended = tokio::select! {
            ended = orderly => ended,
            () = context.cancel.cancelled() => false,
        };
        if !ended && !context.cancel.is_cancelled() {
            context
                .warn(format!(
                    "VM {} did not power off in {} s and was ended by force; what it had not synced is lost",
                    record.name,
                    GRACE.as_secs()
                ))
                .await;
        }
        if ended {
            alive.console_written().await;
        }
    }
    *alive = Alive::default();
    revert(&host.store, &record.id, Scope::Run).await?;
    host.store.set_vm_down(&record.id, None)?;
    Ok(())
}

/// Asks the agent. True when the VMM has ended by `deadline`.
async fn power_off(handle: &Handle, vmm: &Process, deadline: Instant) -> bool {
    let asked = async {
        let (mut agent, _) = Agent::greeted(banger_vmm::connect(&handle.guest, AGENT_PORT).await?).await?;
        agent.ask(&Request::PowerOff(PowerOff {})).await
    };
    match timeout_at(deadline, asked).await {
        Ok(Ok(Reply::PoweringOff)) => timeout_at(deadline, vmm.ended()).await.is_ok(),
        Ok(Ok(reply)) => {
            tracing::warn!(?reply, "the agent does not power off");
            false
        }
        // The guest may have been quicker than its answer.
        Ok(Err(error)) => {
            tracing::warn!(%error, "the agent does not power off");
            timeout_at(Instant::now(), vmm.ended()).await.is_ok()
        }
        Err(_) => false,
    }
}

async fn ctrl_alt_del(host: &Host, handle: &Handle, vmm: &Process, deadline: Instant) -> bool {
    let kind = match handle.vmm {
        ApiVmm::Firecracker => VmmKind::Firecracker,
        ApiVmm::Qemu => VmmKind::Qemu,
    };
    let pressed = async {
        host.vmms.of_kind(kind).await?.ctrl_alt_del(&handle.control).await.map_err(EngineError::from)
    };
    match timeout_at(deadline, pressed).await {
        Ok(Ok(())) => timeout_at(deadline, vmm.ended()).await.is_ok(),
        Ok(Err(error)) => {
            tracing::warn!(%error, "Ctrl-Alt-Del was not pressed");
            false
        }
        Err(_) => false,
    }
}

/// Deletes a VM with all that it has, ending it by force if it runs.
pub(super) async fn delete(host: &Host, id: &Id, alive: &mut Alive) -> Result<(), EngineError> {
    *alive = Alive::default();
    revert(&host.store, id, Scope::Vm).await?;
    host.store.delete_vm(id)?;
    Ok(())
}

/// Records that a VM has ended by itself, and gives back what it held. A guest that powered itself off is stopped;
/// one that broke is in state `error`.
pub(super) async fn clean_up(
    host: &Host,
    id: &Id,
    alive: &mut Alive,
    role: &str,
    how: Option<String>,
) -> Result<(), EngineError> {
    alive.console_written().await;
    *alive = Alive::default();
    revert(&host.store, id, Scope::Run).await?;
    let lines = console::last_lines(&host.dirs.vm(id.as_str()).join("console.log"), CONSOLE_LINES);
    let how = how.unwrap_or_else(|| "ended".to_owned());
    let panicked = lines.iter().any(|line| line.contains("Kernel panic"));
    let orderly = how == "exited with status 0" && !panicked;
    let error = format!("its {role} {how}\n{}", lines.join("\n"));
    host.store.set_vm_down(id, (!orderly).then_some(error.as_str()))?;
    Ok(())
}
