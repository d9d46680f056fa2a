//! What can be asked about VMs that are there.

use std::time::Duration;

use banger_api::{
    ApiError, ErrorKind, Id, KillVm, Limits, OperationKind, RestartVm, SetVm, StartVm, StopVm, Vm, VmState,
};
use banger_vmm::GuestStream;
use tokio::sync::oneshot;

use super::{Engine, Events, create::check_hardware};
use crate::{
    error::EngineError,
    host::Host,
    operation::{Context, OnHangUp},
    store::VmRecord,
    uses::Session,
    vm::{self, Ask, Message},
};

impl Engine {
    /// All VMs, the oldest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn vms(&self) -> Result<Vec<Vm>, ApiError> {
        Ok(self.0.store.vms()?.into_iter().map(|record| self.show_vm(record)).collect())
    }

    /// The VM that `reference` names.
    ///
    /// # Errors
    /// When none or several do.
    pub fn vm(&self, reference: &str) -> Result<Vm, ApiError> {
        Ok(self.show_vm(self.0.find_vm(reference)?))
    }

    /// The VM that `reference` names, once it has been seen to end, or after a while if it does not: whoever was
    /// talking to its guest when that broke off learns why.
    ///
    /// # Errors
    /// When none or several do.
    pub async fn vm_ended(&self, reference: &str) -> Result<Vm, ApiError> {
        let id = self.0.find_vm(reference)?.id;
        let ended = async {
            loop {
                let one = self.0.ended.notified();
                let vm = self.vm(id.as_str())?;
                if vm.state != VmState::Running {
                    return Ok(vm);
                }
                one.await;
            }
        };
        match tokio::time::timeout(vm::ENDS, ended).await {
            Ok(vm) => vm,
            Err(_) => self.vm(id.as_str()),
        }
    }

    /// Starts a VM.
    ///
    /// # Errors
    /// When there is no such VM.
    pub fn start_vm(&self, reference: &str, options: StartVm) -> Result<Events, ApiError> {
        self.change(OperationKind::VmStart, reference, Ask::Start(options.personal))
    }

    /// Stops a VM.
    ///
    /// # Errors
    /// When there is no such VM.
    pub fn stop_vm(&self, reference: &str, options: StopVm) -> Result<Events, ApiError> {
        self.change(OperationKind::VmStop, reference, Ask::Stop(grace(&self.0, options.timeout_s)?))
    }

    /// Stops a VM and starts it again, as one operation.
    ///
    /// # Errors
    /// When there is no such VM.
    pub fn restart_vm(&self, reference: &str, options: RestartVm) -> Result<Events, ApiError> {
        let grace = grace(&self.0, options.timeout_s)?;
        self.change(OperationKind::VmRestart, reference, Ask::Restart(grace, options.personal))
    }

    /// Sends a signal to a VM's VMM, and waits for its end.
    ///
    /// # Errors
    /// When there is no such VM.
    pub fn kill_vm(&self, reference: &str, kill: KillVm) -> Result<Events, ApiError> {
        self.change(OperationKind::VmKill, reference, Ask::Kill(kill.signal))
    }

    /// Lets a VM's virtual CPUs stand still.
    ///
    /// # Errors
    /// When there is no such VM.
    pub fn pause_vm(&self, reference: &str) -> Result<Events, ApiError> {
        self.change(OperationKind::VmPause, reference, Ask::Pause)
    }

    /// Lets a paused VM go on.
    ///
    /// # Errors
    /// When there is no such VM.
    pub fn resume_vm(&self, reference: &str) -> Result<Events, ApiError> {
        self.change(OperationKind::VmResume, reference, Ask::Resume)
    }

    /// Changes a VM's hardware.
    ///
    /// # Errors
    /// When there is no such VM, or it cannot have that.
    pub fn set_vm(&self, reference: &str, mut wanted: SetVm) -> Result<Events, ApiError> {
        check_hardware(wanted.vcpu, wanted.memory, [("a work disk", wanted.disk_size)])?;
        wanted.disk_size = wanted.disk_size.map(|size| size.down_to(Limits::DISK_UNIT));
        self.change(OperationKind::VmSet, reference, Ask::Set(wanted))
    }

    fn change(&self, kind: OperationKind, reference: &str, ask: Ask) -> Result<Events, ApiError> {
        let record = self.0.find_vm(reference)?;
        // A stop that is given up on would end by force, and lose what is not on the disks yet.
        let hang_up = match ask {
            Ask::Stop(_) | Ask::Restart(..) => OnHangUp::GoOn,
            _ => OnHangUp::Cancel,
        };
        let name = record.name.clone();
        let engine = self.clone();
        let work = move |context: Context| async move {
            engine.ask(&record.id, ask, &context).await?;
            Ok(engine.show_vm(engine.0.store.vm(&record.id)?.ok_or_else(|| gone(&record.id))?))
        };
        Ok(self.0.operations.start(kind, name.as_str(), hang_up, work, |_, _| async {}))
    }

    /// Deletes a VM with its disks.
    ///
    /// # Errors
    /// When there is no such VM.
    pub fn delete_vm(&self, reference: &str, force: bool) -> Result<Events, ApiError> {
        let record = self.0.find_vm(reference)?;
        // Half a deletion helps nobody: it is finished even when the client hangs up.
        Ok(self.delete(record.id, record.name.to_string(), force, OnHangUp::GoOn))
    }

    fn delete(&self, id: Id, name: String, force: bool, hang_up: OnHangUp) -> Events {
        let engine = self.clone();
        let work =
            move |context: Context| async move { engine.ask(&id, Ask::Delete { force }, &context).await };
        self.0.operations.start(OperationKind::VmDelete, &name, hang_up, work, |(), _| async {})
    }

    /// The session of a VM that was to go with it has ended.
    pub(super) async fn end_session(&self, vm: &Vm) {
        match self.0.store.vm(&vm.id) {
            // The client has deleted it itself.
            Ok(None) => return,
            Ok(Some(_)) => tracing::info!(vm = %vm.id, name = %vm.name, "its session ended"),
            Err(error) => tracing::error!(vm = %vm.id, name = %vm.name, %error, "cannot be looked up"),
        }
        let mut events = self.delete(vm.id.clone(), vm.name.to_string(), true, OnHangUp::GoOn);
        while events.recv().await.is_some() {}
    }

    /// Asks a VM's owner, and waits for what comes of it.
    pub(super) async fn ask(&self, id: &Id, ask: Ask, context: &Context) -> Result<(), EngineError> {
        let owner = self.0.owner_of(id).ok_or_else(|| gone(id))?;
        tracing::info!(vm = %id, operation = %context.id(), ?ask, "asked");
        let (answer, answered) = oneshot::channel();
        let message = Message { ask, context: context.clone(), answer };
        owner.send(message).await.map_err(|_| gone(id))?;
        answered.await.map_err(|_| gone(id))?
    }

    /// A raw stream to a port of a running VM's guest. While it is open, so is the session.
    ///
    /// # Errors
    /// When there is no such VM, it does not run, or nothing listens there.
    pub async fn tunnel(&self, reference: &str, port: u32) -> Result<(GuestStream, Session), ApiError> {
        let record = self.0.find_vm(reference)?;
        let Some(handle) = record.handle.filter(|_| record.state == VmState::Running) else {
            let mut why = record.last_error.as_deref().unwrap_or_default().lines();
            let first = why.next().map(|line| format!(": {line}")).unwrap_or_default();
            let message = format!("VM {} is {}{first}", record.name, record.state);
            let error = ApiError {
                console: why.map(str::to_owned).collect(),
                ..ApiError::new(ErrorKind::NotRunning, message)
            };
            let way = if record.state == VmState::Paused { "resume" } else { "start" };
            return Err(error.hint(format!("go on with: banger vm {way} {}", record.name)));
        };
        let session = Session::begin(&self.0, &record.id);
        Ok((banger_vmm::connect(&handle.guest, port).await.map_err(EngineError::from)?, session))
    }

    pub(super) fn show_vm(&self, record: VmRecord) -> Vm {
        let handle = record.handle.as_ref();
        let last_used_at = self.0.uses.last(&record.id);
        Vm {
            vmm: handle.map(|handle| handle.vmm),
            accel: handle.map(|handle| handle.accel),
            network: handle.map(|handle| handle.network.clone()),
            pid: handle.map(|handle| handle.pid),
            console: self.0.dirs.vm(record.id.as_str()).join("console.log").display().to_string(),
            id: record.id,
            name: record.name,
            state: record.state,
            image: record.image,
            kernel: record.kernel,
            vcpu: record.vcpu,
            memory: record.memory,
            system_overlay_size: record.system_overlay_size,
            disk_size: record.disk_size,
            nat: record.nat,
            rm: record.rm,
            created_at: record.created_at,
            started_at: record.started_at,
            last_used_at: record.last_used_at.max(last_used_at),
            last_error: record.last_error,
        }
    }
}

/// How long an orderly power-off may take.
fn grace(host: &Host, timeout_s: Option<u64>) -> Result<Duration, ApiError> {
    match timeout_s {
        None => Ok(host.config()?.stop_timeout().as_duration()),
        Some(seconds @ 0..=Limits::STOP_TIMEOUT_S) => Ok(Duration::from_secs(seconds)),
        Some(seconds) => {
            let most = Limits::STOP_TIMEOUT_S;
            let message = format!("a stop cannot take {seconds} s: from 0 to {most}");
            Err(ApiError::new(ErrorKind::Invalid, message))
        }
    }
}

/// A VM that has gone while something was asked of it.
pub(super) fn gone(id: &Id) -> EngineError {
    ApiError::new(ErrorKind::NotFound, format!("VM {id} is gone")).into()
}
