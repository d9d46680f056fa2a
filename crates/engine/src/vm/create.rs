//! Creates VMs.

use std::sync::Arc;

use banger_api::{
    ApiError, CreateVm, ErrorKind, Id, InvalidName, Limits, OperationKind, SubjectKind, Vm, VmName, VmState,
};
use jiff::Timestamp;

use super::{
    actor::Change,
    hardware::{check_hardware, check_network},
    names, preflight,
    process::VmProcesses,
    publish,
    vms::Vms,
};
use crate::{
    error::EngineError,
    files::{sync, sync_tree},
    layout::VmDir,
    operation::{Context, Events, OnDisconnect},
    random::{random, random_id},
    store::{ImageRecord, KernelRecord, NewVm, StoreError},
};

/// Number of attempts to insert a VM without a name. The last attempt uses the name `vm-ID`.
const MAX_NAME_ATTEMPTS: usize = 20;

impl Vms {
    /// Creates a VM and, unless `no_start` is set, starts it. Fetches a missing image and kernel. With `rm`, the
    /// event stream stays open after `done`, and bangerd deletes the VM when the client closes it.
    ///
    /// # Errors
    /// Returns an error, and does nothing, if the request is invalid.
    pub fn run(self: &Arc<Self>, request: CreateVm) -> Result<Events, ApiError> {
        check(&request)?;
        let on_disconnect = if request.detach { OnDisconnect::Continue } else { OnDisconnect::Cancel };
        let delete_on_disconnect = request.rm && !request.detach;
        let target = request.name.as_ref().map(ToString::to_string).unwrap_or_default();
        let (vms, after) = (self.clone(), self.clone());
        Ok(self.operations.start_and_then(
            OperationKind::VmRun,
            &target,
            on_disconnect,
            move |context| async move { vms.create_and_start(request, &context).await },
            move |vm: Vm, events| async move {
                if delete_on_disconnect {
                    events.closed().await;
                    after.end_session(&vm).await;
                }
            },
        ))
    }

    async fn create_and_start(&self, mut request: CreateVm, context: &Context) -> Result<Vm, EngineError> {
        let services = &self.services;
        let defaults = services.config.current()?;
        // Before anything is created or fetched, so that no work is wasted.
        preflight::before_create(services, &request, context).await?;
        if let Some(name) = &request.name
            && services.store.has_vm_named(name)?
        {
            return Err(name_in_use(name).into());
        }
        let id = random_id();
        let (ports, flexible) = publish::requested(&request);
        // Held until the VM runs, or this function returns.
        let (_reservation, ports) = if request.no_start {
            (None, [ports, flexible].concat())
        } else {
            let reserved = services.ports.reserve(&id, request.name.as_ref(), &ports, &flexible)?;
            (Some(reserved.0), reserved.1)
        };
        request.publish = ports;
        let image = request.image.as_deref().unwrap_or(defaults.image_name());
        let image =
            services.images.find_or_fetch(image, std::mem::take(&mut request.credentials), context).await?;
        let kernel = request.kernel.as_deref().unwrap_or(defaults.kernel_name(image.kernel.as_deref()));
        let kernel = services.kernels.find_or_fetch(kernel, context).await?;
        context.check()?;
        self.reserve(&id, &request, &image, &kernel)?;
        publish::warn_of_public(context, &request.publish).await;
        self.actors.add(&id, VmProcesses::default());
        if !request.no_start {
            let guest_settings = std::mem::take(&mut request.personal);
            if let Err(error) = self.actors.change(&id, Change::Start(guest_settings), context).await {
                return Err(self.undo_or_keep(&id, request.rm, context, error).await);
            }
        }
        // A VM that is deleted at the end of its session does not outlive this daemon anyway.
        if !request.rm {
            services.store.acknowledge_vm(&id)?;
        }
        self.show_by_id(&id)
    }

    /// Deletes or keeps a VM that failed to start. Deletes it if the operation was cancelled, `rm` was set, or the VM
    /// has no console log. Otherwise keeps it for its logs. A VM that runs is always kept.
    async fn undo_or_keep(&self, id: &Id, rm: bool, context: &Context, error: EngineError) -> EngineError {
        let services = &self.services;
        let may_run = match services.store.vm(id) {
            Ok(Some(record)) => record.state == VmState::Running,
            Ok(None) => return error,
            Err(_) => true,
        };
        let has_console = || VmDir::new(&services.dirs, id).console_log().exists();
        if may_run || !(rm || context.cancel.is_cancelled() || !has_console()) {
            if rm {
                // It was not to outlive this daemon, so its disks may not be on the disk yet.
                let dir = VmDir::new(&services.dirs, id);
                let sync_all = move |_: &Context| {
                    sync_tree(dir.path())?;
                    dir.path().ancestors().skip(1).take(2).try_for_each(sync)
                };
                if let Err(error) = context.blocking(sync_all).await {
                    tracing::error!(vm = %id, %error, "cannot sync the VM's disks");
                }
            }
            if let Err(error) = services.store.keep_vm(id) {
                tracing::error!(vm = %id, %error, "cannot record that the VM is kept");
            }
            return error;
        }
        if let Err(delete_error) = self.actors.change(id, Change::Delete { force: true }, context).await {
            tracing::error!(vm = %id, error = %delete_error, "cannot delete the VM; the next start of bangerd tries again");
        }
        error
    }

    /// Reserves the VM's name, and writes its row.
    fn reserve(
        &self,
        id: &Id,
        request: &CreateVm,
        image: &ImageRecord,
        kernel: &KernelRecord,
    ) -> Result<(), EngineError> {
        let defaults = self.services.config.current()?;
        let mut vm = NewVm {
            dir: VmDir::new(&self.services.dirs, id).path().to_owned(),
            id: id.clone(),
            name: generated_name()?,
            image_id: image.id.clone(),
            kernel_id: kernel.id.clone(),
            vcpu: request.vcpu.unwrap_or_else(|| defaults.vcpu()),
            memory: request.memory.unwrap_or_else(|| defaults.memory()),
            system_overlay_size: request
                .system_overlay_size
                .unwrap_or_else(|| defaults.system_overlay_size())
                .down_to(Limits::DISK_UNIT),
            disk_size: request.disk_size.unwrap_or_else(|| defaults.disk_size()).down_to(Limits::DISK_UNIT),
            vmm: request.vmm,
            network_kind: request.network_kind.unwrap_or_else(|| defaults.kind()),
            egress: request.egress.clone().unwrap_or_else(|| defaults.egress()),
            allow_host: request.allow_host.clone().unwrap_or_else(|| defaults.allow_host()),
            published: request.publish.clone(),
            publish_all: request.publish_all,
            rm: request.rm,
            created_at: Timestamp::now(),
        };
        if let Some(name) = &request.name {
            vm.name = name.clone();
            return match self.services.store.insert_vm(&vm) {
                Ok(()) => Ok(()),
                Err(StoreError::NameTaken(_)) => Err(name_in_use(name).into()),
                Err(error) => Err(error.into()),
            };
        }
        for _ in 1..MAX_NAME_ATTEMPTS {
            match self.services.store.insert_vm(&vm) {
                Ok(()) => return Ok(()),
                Err(StoreError::NameTaken(_)) => vm.name = generated_name()?,
                Err(error) => return Err(error.into()),
            }
        }
        // Most generated names are taken; the id never is.
        vm.name = format!("vm-{}", vm.id).parse().map_err(internal)?;
        Ok(self.services.store.insert_vm(&vm)?)
    }
}

/// Validates the request before creating anything. Unset fields use configured defaults, which are within the limits.
fn check(request: &CreateVm) -> Result<(), ApiError> {
    let disks = [("a work disk", request.disk_size), ("a system overlay", request.system_overlay_size)];
    check_hardware(request.vcpu, request.memory, disks)?;
    check_network(request.network_kind, request.allow_host.as_ref())?;
    let (ports, flexible) = publish::requested(request);
    publish::check(&ports)?;
    publish::check_count(ports.len() + flexible.len())?;
    let invalid = |message: &str| Err(ApiError::new(ErrorKind::Invalid, message));
    if request.rm && request.detach {
        return invalid("rm and detach cannot be used together: a detached VM has no session");
    }
    if request.rm && request.no_start {
        return invalid("rm and no_start cannot be used together: a VM that is not started has no session");
    }
    Ok(())
}

fn generated_name() -> Result<VmName, EngineError> {
    names::from_random(u16::from_be_bytes(random())).parse().map_err(internal)
}

fn internal(error: InvalidName) -> EngineError {
    ApiError::new(ErrorKind::Internal, format!("invalid generated name: {error}")).into()
}

fn name_in_use(name: &VmName) -> ApiError {
    ApiError::new(ErrorKind::AlreadyExists, format!("VM {name} already exists")).about(SubjectKind::Vm, name)
}
