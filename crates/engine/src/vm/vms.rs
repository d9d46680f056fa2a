//! The VM service: lists, shows, changes and deletes VMs, and connects to their guests.

use std::{collections::HashSet, sync::Arc, time::Duration};

use banger_api::{
    ApiError, CommitVm, ErrorKind, EventKind, Id, KillVm, Limits, OperationKind, PublishPorts, Remedy,
    RestartVm, SetVm, StartVm, StopVm, SubjectKind, UnpublishPorts, Vm, VmState, VmStats, resolve,
};
use banger_proto::UNPRIVILEGED_AGENT_PORT;
use banger_vmm::GuestStream;
use tokio::task::JoinSet;

use super::{
    actor::Change,
    actors::{Actors, deleted_error},
    hardware::{check_hardware, check_network},
    process::{self, EXIT_TIMEOUT},
    services::Services,
    stats::{Samples, stats},
};
use crate::{
    error::EngineError,
    operation::{Context, Events, OnDisconnect, Operations},
    ports::GuestPort,
    resource::Resource,
    sessions::Session,
    store::{USER_NETWORK, VmRecord},
};

/// The VM service.
#[derive(Debug)]
pub struct Vms {
    pub(super) services: Arc<Services>,
    pub(super) actors: Arc<Actors>,
    pub(super) operations: Operations,
    pub(super) samples: Samples,
}

impl Vms {
    pub(crate) fn new(services: Arc<Services>, actors: Arc<Actors>, operations: Operations) -> Self {
        Self { services, actors, operations, samples: Samples::default() }
    }

    /// Returns all VMs, the oldest first.
    ///
    /// # Errors
    /// Returns an error if the store cannot be read.
    pub fn list(&self) -> Result<Vec<Vm>, ApiError> {
        Ok(self.services.store.vms()?.into_iter().map(|record| self.describe(record)).collect())
    }

    /// Returns the VM that `reference` names.
    ///
    /// # Errors
    /// Returns an error if no VM or several VMs match.
    pub fn show(&self, reference: &str) -> Result<Vm, ApiError> {
        let mut vm = self.describe(self.services.find_vm(reference)?);
        if vm.network.as_deref() == Some(USER_NETWORK) && banger_net::gateway::is_offline() {
            vm.network = Some(format!("{USER_NETWORK}; the host is offline: it has no default route"));
        }
        Ok(vm)
    }

    /// Returns the VM that `reference` names, after it has ended or a timeout. A client whose session broke off uses
    /// it to learn why.
    ///
    /// # Errors
    /// Returns an error if no VM or several VMs match.
    pub async fn show_ended(&self, reference: &str) -> Result<Vm, ApiError> {
        // Subscribe before reading the state, so that the VM's end is not missed.
        let mut events = self.services.store.event_log().follow();
        let id = self.services.find_vm(reference)?.id;
        let ended = async {
            loop {
                let vm = self.show(id.as_str())?;
                if vm.state != VmState::Running {
                    return Ok(vm);
                }
                loop {
                    match events.next().await.kind {
                        EventKind::VmState { id: event_id, .. }
                        | EventKind::VmDeleted { id: event_id, .. }
                            if event_id == id =>
                        {
                            break;
                        }
                        EventKind::Missed { .. } => break,
                        _ => {}
                    }
                }
            }
        };
        match tokio::time::timeout(EXIT_TIMEOUT, ended).await {
            Ok(vm) => vm,
            Err(_) => self.show(id.as_str()),
        }
    }

    /// Returns the resource use of the VMs in `references`, each once, or of all running VMs if it is empty.
    ///
    /// # Errors
    /// Returns an error if a reference matches no VM or several, or the store cannot be read.
    pub async fn stats(self: &Arc<Self>, references: &[String]) -> Result<Vec<VmStats>, ApiError> {
        let vms = self.services.store.vms()?;
        let mut selected = Vec::new();
        if references.is_empty() {
            selected.extend(vms.into_iter().filter(|vm| vm.handle.is_some()));
        } else {
            let mut seen = HashSet::new();
            for reference in references {
                let vm = resolve(&vms, reference)
                    .map_err(|error| ApiError::unresolved(SubjectKind::Vm, reference, error))?;
                if seen.insert(&vm.id) {
                    selected.push(vm.clone());
                }
            }
        }
        // Ask all guests at once, so that a silent one delays no other.
        let mut tasks = JoinSet::new();
        for (index, vm) in selected.into_iter().enumerate() {
            let vms = self.clone();
            tasks.spawn(
                async move { stats(&vms.services, &vms.samples, vm).await.map(|stats| (index, stats)) },
            );
        }
        let mut all = Vec::new();
        while let Some(result) = tasks.join_next().await {
            let result = result.map_err(|error| ApiError::new(ErrorKind::Internal, error.to_string()))?;
            all.push(result?);
        }
        all.sort_by_key(|(index, _)| *index);
        Ok(all.into_iter().map(|(_, stats)| stats).collect())
    }

    /// Starts a VM.
    ///
    /// # Errors
    /// Returns an error if there is no such VM.
    pub fn start(self: &Arc<Self>, reference: &str, options: StartVm) -> Result<Events, ApiError> {
        self.change(OperationKind::VmStart, reference, Change::Start(options.personal))
    }

    /// Stops a VM.
    ///
    /// # Errors
    /// Returns an error if there is no such VM.
    pub fn stop(self: &Arc<Self>, reference: &str, options: StopVm) -> Result<Events, ApiError> {
        self.change(OperationKind::VmStop, reference, Change::Stop(self.grace(options.timeout_s)?))
    }

    /// Restarts a VM as one operation.
    ///
    /// # Errors
    /// Returns an error if there is no such VM.
    pub fn restart(self: &Arc<Self>, reference: &str, options: RestartVm) -> Result<Events, ApiError> {
        let grace = self.grace(options.timeout_s)?;
        self.change(OperationKind::VmRestart, reference, Change::Restart(grace, options.personal))
    }

    /// Sends a signal to a VM's VMM and waits until it exits.
    ///
    /// # Errors
    /// Returns an error if there is no such VM.
    pub fn kill(self: &Arc<Self>, reference: &str, kill: KillVm) -> Result<Events, ApiError> {
        self.change(OperationKind::VmKill, reference, Change::Kill(kill.signal))
    }

    /// Pauses a VM's virtual CPUs.
    ///
    /// # Errors
    /// Returns an error if there is no such VM.
    pub fn pause(self: &Arc<Self>, reference: &str) -> Result<Events, ApiError> {
        self.change(OperationKind::VmPause, reference, Change::Pause)
    }

    /// Resumes a paused VM.
    ///
    /// # Errors
    /// Returns an error if there is no such VM.
    pub fn resume(self: &Arc<Self>, reference: &str) -> Result<Events, ApiError> {
        self.change(OperationKind::VmResume, reference, Change::Resume)
    }

    /// Changes a VM's hardware or network. The egress policy alone changes in a running VM, too.
    ///
    /// # Errors
    /// Returns an error if there is no such VM, or a value is outside the limits.
    pub fn set(self: &Arc<Self>, reference: &str, mut changes: SetVm) -> Result<Events, ApiError> {
        check_network(changes.network_kind, changes.allow_host.as_ref())?;
        check_hardware(changes.vcpu, changes.memory, [("a work disk", changes.disk_size)])?;
        changes.disk_size = changes.disk_size.map(|size| size.down_to(Limits::DISK_UNIT));
        let change = match changes.egress.take() {
            Some(egress) if changes == SetVm::default() => Change::SetEgress(egress),
            egress => Change::Set(SetVm { egress, ..changes }),
        };
        self.change(OperationKind::VmSet, reference, change)
    }

    /// Publishes ports of a VM on the host, now if it runs, and at each start.
    ///
    /// # Errors
    /// Returns an error if there is no such VM.
    pub fn publish(self: &Arc<Self>, reference: &str, ports: PublishPorts) -> Result<Events, ApiError> {
        self.change(OperationKind::VmPublish, reference, Change::Publish(ports))
    }

    /// Stops publishing ports of a VM.
    ///
    /// # Errors
    /// Returns an error if there is no such VM.
    pub fn unpublish(self: &Arc<Self>, reference: &str, ports: UnpublishPorts) -> Result<Events, ApiError> {
        self.change(OperationKind::VmUnpublish, reference, Change::Unpublish(ports))
    }

    fn change(
        self: &Arc<Self>,
        kind: OperationKind,
        reference: &str,
        change: Change,
    ) -> Result<Events, ApiError> {
        let record = self.services.find_vm(reference)?;
        // A stop that is cancelled when the client disconnects would end by force and lose unsynced data.
        let on_disconnect = match change {
            Change::Stop(_) | Change::Restart(..) => OnDisconnect::Continue,
            _ => OnDisconnect::Cancel,
        };
        let name = record.name.clone();
        let vms = self.clone();
        let work = move |context: Context| async move {
            vms.actors.change(&record.id, change, &context).await?;
            vms.show_by_id(&record.id)
        };
        Ok(self.operations.start(kind, name.as_str(), on_disconnect, work))
    }

    /// Creates an image from the disks of a VM that is down.
    ///
    /// # Errors
    /// Returns an error if there is no such VM.
    pub fn commit(&self, reference: &str, commit: CommitVm) -> Result<Events, ApiError> {
        let record = self.services.find_vm(reference)?;
        let actors = self.actors.clone();
        let target = commit.name.to_string();
        Ok(self.services.images.operation(
            OperationKind::ImageCommit,
            &target,
            move |_, context| async move { actors.commit(&record.id, commit, &context).await },
        ))
    }

    /// Deletes a VM and its disks.
    ///
    /// # Errors
    /// Returns an error if there is no such VM.
    pub fn delete(&self, reference: &str, force: bool) -> Result<Events, ApiError> {
        let record = self.services.find_vm(reference)?;
        Ok(self.delete_by_id(record.id, record.name.as_str(), force))
    }

    fn delete_by_id(&self, id: Id, name: &str, force: bool) -> Events {
        let actors = self.actors.clone();
        let work = move |context: Context| async move {
            actors.change(&id, Change::Delete { force }, &context).await
        };
        // A deletion runs to its end even if the client disconnects: a half-deleted VM is of no use.
        self.operations.start(OperationKind::VmDelete, name, OnDisconnect::Continue, work)
    }

    /// Deletes an `rm` VM whose session has ended.
    pub(super) async fn end_session(&self, vm: &Vm) {
        match self.services.store.vm(&vm.id) {
            // The client has deleted it already.
            Ok(None) => return,
            Ok(Some(_)) => tracing::info!(vm = %vm.id, name = %vm.name, "deleting a VM: its session ended"),
            Err(error) => tracing::error!(vm = %vm.id, name = %vm.name, %error, "cannot look up the VM"),
        }
        let mut events = self.delete_by_id(vm.id.clone(), vm.name.as_str(), true);
        while events.recv().await.is_some() {}
    }

    /// Opens a raw stream to a port of a running VM's guest; its agent's without one, and with the port that agents
    /// had first. The session is open as long as the stream.
    ///
    /// # Errors
    /// Returns an error if there is no such VM, it does not run, or nothing listens on the port.
    pub async fn tunnel(
        &self,
        reference: &str,
        port: Option<u32>,
    ) -> Result<(GuestStream, Session), ApiError> {
        let record = self.services.find_vm(reference)?;
        let Some(handle) = record.handle.filter(|_| record.state == VmState::Running) else {
            let mut why = record.last_error.as_deref().unwrap_or_default().lines();
            let first = why.next().map(|line| format!(": {line}")).unwrap_or_default();
            let message = format!("VM {} is {}{first}", record.name, record.state);
            let error = ApiError {
                console: why.map(str::to_owned).collect(),
                ..ApiError::new(ErrorKind::NotRunning, message)
            };
            let remedy = if record.state == VmState::Paused { Remedy::ResumeVm } else { Remedy::StartVm };
            return Err(error.about(SubjectKind::Vm, &record.name).remedy(remedy));
        };
        let port = port.filter(|port| *port != UNPRIVILEGED_AGENT_PORT).unwrap_or(handle.agent_port);
        let session = self.services.sessions.open(&record.id);
        Ok((banger_vmm::connect(&handle.guest, port).await.map_err(EngineError::from)?, session))
    }

    /// Connects to a TCP port of a running VM's guest. The VM is in use as long as the connection is open.
    ///
    /// # Errors
    /// Returns an error if there is no such VM, it does not run, or nothing listens on the port.
    pub async fn connect_port(&self, reference: &str, port: u16) -> Result<GuestPort, ApiError> {
        let record = self.services.find_vm(reference)?;
        let Some(handle) = record.handle.filter(|_| record.state == VmState::Running) else {
            let message = format!("VM {} is {}", record.name, record.state);
            return Err(ApiError::new(ErrorKind::NotRunning, message).about(SubjectKind::Vm, &record.name));
        };
        let session = self.services.sessions.open_port(&record.id);
        Ok(GuestPort::connect(&handle, port, session).await?)
    }

    /// Returns whether process `pid` belongs to a VM: its VMM or a helper. They never use the API, unless a guest has
    /// taken one over.
    ///
    /// # Errors
    /// Returns an error if the store cannot be read.
    pub fn own_process(&self, pid: u32) -> Result<bool, ApiError> {
        let held = self.services.store.journalled_processes(pid).map_err(EngineError::from)?;
        let Some(now) = process::identify(pid)? else { return Ok(false) };
        let is_held = |resource: &Resource| matches!(resource, Resource::Process { id: Some(id), .. } if id.started == now.started);
        Ok(held.iter().any(is_held))
    }

    /// Converts a record to the API's VM.
    fn describe(&self, record: VmRecord) -> Vm {
        let handle = record.handle.as_ref();
        let last_used_at = self.services.sessions.last_used_at(&record.id);
        let published = self.services.ports.describe(&record);
        Vm {
            published,
            vmm: handle.map(|handle| handle.vmm),
            accel: handle.map(|handle| handle.accel),
            ran_with: record.ran_with,
            network: handle.map(|handle| handle.network.clone()),
            pid: handle.map(|handle| handle.pid),
            console: self.services.vm_dir(&record).console_log().display().to_string(),
            id: record.id,
            name: record.name,
            state: record.state,
            image: record.image,
            kernel: record.kernel,
            vcpu: record.vcpu,
            memory: record.memory,
            system_overlay_size: record.system_overlay_size,
            disk_size: record.disk_size,
            network_kind: record.network_kind,
            egress: record.egress,
            allow_host: record.allow_host,
            publish_all: record.publish_all,
            rm: record.rm,
            created_at: record.created_at,
            started_at: record.started_at,
            last_used_at: record.last_used_at.max(last_used_at),
            last_error: record.last_error,
        }
    }

    pub(super) fn show_by_id(&self, id: &Id) -> Result<Vm, EngineError> {
        Ok(self.describe(self.services.store.vm(id)?.ok_or_else(|| deleted_error(id))?))
    }

    /// Returns the timeout for a graceful stop.
    fn grace(&self, timeout_s: Option<u64>) -> Result<Duration, ApiError> {
        match timeout_s {
            None => Ok(self.services.config.current()?.stop_timeout().as_duration()),
            Some(seconds @ 0..=Limits::MAX_STOP_TIMEOUT_S) => Ok(Duration::from_secs(seconds)),
            Some(seconds) => {
                let max = Limits::MAX_STOP_TIMEOUT_S;
                let message = format!("stop timeout of {seconds} s requested; the limit is {max} s");
                Err(ApiError::new(ErrorKind::Invalid, message))
            }
        }
    }
}
