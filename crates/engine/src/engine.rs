//! The engine's face: one method for each thing that can be asked of the daemon.

use std::{io::Read, sync::Arc};

use banger_api::{
    ApiError, CreateVm, Dirs, ErrorKind, Event, Id, Image, InvalidName, Kernel, Limits, LogSource, Name,
    Operation, OperationKind, Size, Vm, VmName, VmState, resolve,
};
use banger_vmm::GuestStream;
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};

use crate::{
    config::{Config, VmDefaults},
    error::EngineError,
    host::{Host, Programs, unresolved},
    images::Tar,
    kernels::KernelFormat,
    names,
    operation::{Context, OnHangUp, Operations},
    random, random_id, reconcile,
    store::{ImageRecord, KernelRecord, NewVm, Store, VmRecord},
    vm::{self, Alive, Ask, Message},
    vmms::Vmms,
};

/// An operation's events, the last being `done` or `error`. Dropping it is hanging up.
pub type Events = mpsc::Receiver<Event>;

/// Made-up names that are tried before giving up on them being free.
const NAME_TRIES: usize = 20;

/// The engine.
#[derive(Debug, Clone)]
pub struct Engine(Arc<Host>);

impl Engine {
    /// Opens the store under `dirs`, and takes over what the last daemon left.
    ///
    /// # Errors
    /// When a folder or the store cannot be used.
    pub async fn open(dirs: Dirs, config: Config, programs: Programs) -> Result<Self, ApiError> {
        for folder in [&dirs.state, &dirs.cache, &dirs.runtime] {
            crate::dirs::private(folder)?;
        }
        let store = Store::open(&dirs.state.join("store.db"))?;
        let host = Arc::new(Host {
            vmms: Vmms::new(&programs, config.vm.vmm()),
            dirs,
            config,
            store,
            programs,
            operations: Operations::default(),
            initrds: crate::kernels::Initrds::default(),
            publishing_images: tokio::sync::Mutex::default(),
            publishing_kernels: tokio::sync::Mutex::default(),
            ended: tokio::sync::Notify::new(),
            owners: std::sync::Mutex::default(),
        });
        reconcile::reconcile(&host).await?;
        Ok(Self(host))
    }

    /// banger's folders.
    pub fn dirs(&self) -> &Dirs {
        &self.0.dirs
    }

    /// What is under way.
    pub fn operations(&self) -> Vec<Operation> {
        self.0.operations.list()
    }

    /// Asks an operation to undo what it has done and end.
    ///
    /// # Errors
    /// When there is no such operation.
    pub fn cancel(&self, operation: &str) -> Result<(), ApiError> {
        self.0.operations.cancel(operation)
    }

    /// Waits until nothing is under way.
    pub async fn idle(&self) {
        self.0.operations.idle().await;
    }

    /// Puts the store into the one file, as the last thing before the daemon ends.
    pub fn close(&self) {
        if let Err(error) = self.0.store.settle() {
            tracing::warn!(%error, "the store's write-ahead log stays for the next start");
        }
    }

    /// What would run a VM now, and what the KVM probe found, in words.
    pub async fn describe_vmm(&self) -> (String, String) {
        self.0.vmms.describe().await
    }

    /// Finds out what can run VMs, so that the first VM need not wait for it.
    pub fn warm_up(&self) {
        let host = self.0.clone();
        tokio::spawn(async move { host.vmms.describe().await });
    }

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

    /// Makes a VM and starts it, fetching its image and kernel where they are missing. With `rm`, the stream stays
    /// open after `done`, and the VM is deleted when it is hung up.
    ///
    /// # Errors
    /// When the request makes no sense; nothing is done then.
    pub fn run_vm(&self, request: CreateVm) -> Result<Events, ApiError> {
        check(&request, &self.0.config.vm)?;
        let hang_up = if request.detach { OnHangUp::GoOn } else { OnHangUp::Cancel };
        let lease = request.rm && !request.detach;
        let target = request.name.as_ref().map(ToString::to_string).unwrap_or_default();
        let (engine, after) = (self.clone(), self.clone());
        Ok(self.0.operations.start(
            OperationKind::VmRun,
            &target,
            hang_up,
            move |context| async move { engine.make_and_start(request, &context).await },
            move |vm: Vm, events| async move {
                if lease {
                    events.closed().await;
                    after.end_session(&vm).await;
                }
            },
        ))
    }

    async fn make_and_start(&self, request: CreateVm, context: &Context) -> Result<Vm, EngineError> {
        let host = &self.0;
        let defaults = &host.config.vm;
        // Before anything is made or fetched: without a VMM, all of it would be in vain.
        host.vmms.choose(request.vmm).await?;
        if let Some(name) = &request.name
            && host.store.has_vm_named(name)?
        {
            return Err(name_in_use(name).into());
        }
        let image = host.find_image(request.image.as_deref().unwrap_or(defaults.image()), context).await?;
        let kernel = request.kernel.as_deref().unwrap_or(defaults.kernel(image.kernel.as_deref()));
        let kernel = host.find_kernel(kernel, context).await?;
        context.check()?;
        let id = self.reserve(&request, &image, &kernel)?;
        host.own_vm(&id, Alive::default());
        if let Err(error) = self.ask(&id, Ask::Start, context).await {
            return Err(self.undo_or_keep(&id, request.rm, context, error).await);
        }
        Ok(self.show_vm(host.store.vm(&id)?.ok_or_else(|| gone(&id))?))
    }

    /// A VM that failed to start is undone if nobody could want it: it was cancelled, was not to be kept, or never
    /// came so far as to have a console. Otherwise it stays in state `error`, for its logs.
    async fn undo_or_keep(&self, id: &Id, rm: bool, context: &Context, error: EngineError) -> EngineError {
        let host = &self.0;
        let stays = match host.store.vm(id) {
            Ok(Some(record)) => record.state == VmState::Running,
            Ok(None) => return error,
            Err(_) => true,
        };
        let has_console = || host.dirs.vm(id.as_str()).join("console.log").exists();
        if stays || !(rm || context.cancel.is_cancelled() || !has_console()) {
            if let Err(error) = host.store.keep_vm(id) {
                tracing::error!(vm = %id, %error, "kept, but not recorded as such");
            }
            return error;
        }
        if let Err(left) = self.ask(id, Ask::Delete { force: true }, context).await {
            tracing::error!(vm = %id, error = %left, "not undone; the next start of bangerd tries again");
        }
        error
    }

    fn reserve(
        &self,
        request: &CreateVm,
        image: &ImageRecord,
        kernel: &KernelRecord,
    ) -> Result<Id, EngineError> {
        let defaults = &self.0.config.vm;
        let mut vm = NewVm {
            id: random_id(),
            name: made_up()?,
            image_id: image.id.clone(),
            kernel_id: kernel.id.clone(),
            vcpu: request.vcpu.unwrap_or_else(|| defaults.vcpu()),
            memory: request.memory.unwrap_or_else(|| defaults.memory()),
            system_overlay_size: request
                .system_overlay_size
                .unwrap_or_else(|| defaults.system_overlay_size()),
            disk_size: request.disk_size.unwrap_or_else(|| defaults.disk_size()),
            vmm: request.vmm,
            rm: request.rm,
            created_at: Timestamp::now(),
        };
        if let Some(name) = &request.name {
            vm.name = name.clone();
            return match self.0.store.insert_vm(&vm) {
                Ok(()) => Ok(vm.id),
                Err(crate::StoreError::NameTaken(_)) => Err(name_in_use(name).into()),
                Err(error) => Err(error.into()),
            };
        }
        for _ in 1..NAME_TRIES {
            match self.0.store.insert_vm(&vm) {
                Ok(()) => return Ok(vm.id),
                Err(crate::StoreError::NameTaken(_)) => vm.name = made_up()?,
                Err(error) => return Err(error.into()),
            }
        }
        // Most made-up names are taken; the id never is.
        vm.name = format!("vm-{}", vm.id).parse().map_err(internal)?;
        self.0.store.insert_vm(&vm)?;
        Ok(vm.id)
    }

    /// The session of a VM that was to go with it has ended.
    async fn end_session(&self, vm: &Vm) {
        match self.0.store.vm(&vm.id) {
            // The client has deleted it itself.
            Ok(None) => return,
            Ok(Some(_)) => tracing::info!(vm = %vm.name, "its session ended"),
            Err(error) => tracing::error!(vm = %vm.name, %error, "cannot be looked up"),
        }
        let mut events = self.delete(vm.id.clone(), vm.name.to_string(), true, OnHangUp::GoOn);
        while events.recv().await.is_some() {}
    }

    /// Starts a VM.
    ///
    /// # Errors
    /// When there is no such VM.
    pub fn start_vm(&self, reference: &str) -> Result<Events, ApiError> {
        self.change(OperationKind::VmStart, reference, Ask::Start)
    }

    /// Stops a VM.
    ///
    /// # Errors
    /// When there is no such VM.
    pub fn stop_vm(&self, reference: &str) -> Result<Events, ApiError> {
        self.change(OperationKind::VmStop, reference, Ask::Stop)
    }

    fn change(&self, kind: OperationKind, reference: &str, ask: Ask) -> Result<Events, ApiError> {
        let record = self.0.find_vm(reference)?;
        let engine = self.clone();
        let work = move |context: Context| async move {
            engine.ask(&record.id, ask, &context).await?;
            Ok(engine.show_vm(engine.0.store.vm(&record.id)?.ok_or_else(|| gone(&record.id))?))
        };
        // A stop that is given up on would end by force, and lose what is not on the disks yet.
        let hang_up = if ask == Ask::Stop { OnHangUp::GoOn } else { OnHangUp::Cancel };
        Ok(self.0.operations.start(kind, reference, hang_up, work, |_, _| async {}))
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

    /// Asks a VM's owner, and waits for what comes of it.
    async fn ask(&self, id: &Id, ask: Ask, context: &Context) -> Result<(), EngineError> {
        let owner = self.0.owner_of(id).ok_or_else(|| gone(id))?;
        let (answer, answered) = oneshot::channel();
        let message = Message { ask, context: context.clone(), answer };
        owner.send(message).await.map_err(|_| gone(id))?;
        answered.await.map_err(|_| gone(id))?
    }

    /// A raw stream to a port of a running VM's guest.
    ///
    /// # Errors
    /// When there is no such VM, it does not run, or nothing listens there.
    pub async fn tunnel(&self, reference: &str, port: u32) -> Result<GuestStream, ApiError> {
        let record = self.0.find_vm(reference)?;
        let Some(handle) = record.handle.filter(|_| record.state == VmState::Running) else {
            let mut why = record.last_error.as_deref().unwrap_or_default().lines();
            let first = why.next().map(|line| format!(": {line}")).unwrap_or_default();
            let message = format!("VM {} is {}{first}", record.name, record.state);
            let error = ApiError {
                console: why.map(str::to_owned).collect(),
                ..ApiError::new(ErrorKind::NotRunning, message)
            };
            return Err(error.hint(format!("start it with: banger vm start {}", record.name)));
        };
        Ok(banger_vmm::connect(&handle.guest, port).await.map_err(EngineError::from)?)
    }

    /// A log of a VM, as far as it is kept.
    ///
    /// # Errors
    /// When there is no such VM, or the log cannot be read.
    pub fn logs(&self, reference: &str, source: LogSource) -> Result<Vec<u8>, ApiError> {
        let folder = self.0.dirs.vm(self.0.find_vm(reference)?.id.as_str());
        let path = folder.join(match source {
            LogSource::Console => "console.log",
            LogSource::Vmm => "vmm.log",
        });
        Ok(vm::read_console(&path).map_err(EngineError::file("read", path))?)
    }

    /// All images, by name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn images(&self) -> Result<Vec<Image>, ApiError> {
        let vms = self.0.store.vms()?;
        Ok(self.0.store.images()?.iter().map(|image| self.0.show_image(image, &vms)).collect())
    }

    /// The image that `reference` names.
    ///
    /// # Errors
    /// When none or several do.
    pub fn image(&self, reference: &str) -> Result<Image, ApiError> {
        let images = self.0.store.images()?;
        let image = resolve(&images, reference).map_err(|error| unresolved("image", reference, error))?;
        Ok(self.0.show_image(image, &self.0.store.vms()?))
    }

    /// Makes an image of a tar of a root file system.
    pub fn import_image<R: Read + Send + 'static>(&self, name: Name, tar: Tar<R>) -> Events {
        let target = name.to_string();
        self.image_operation(OperationKind::ImageImport, &target, move |host, context| async move {
            host.import_image(name, tar, &context).await
        })
    }

    /// Gets an image from the catalog.
    pub fn pull_image(&self, name: Name) -> Events {
        let target = name.to_string();
        self.image_operation(OperationKind::ImagePull, &target, move |host, context| async move {
            host.pull_image(name, &context).await
        })
    }

    fn image_operation<W>(
        &self,
        kind: OperationKind,
        target: &str,
        work: impl FnOnce(Arc<Host>, Context) -> W + Send + 'static,
    ) -> Events
    where
        W: Future<Output = Result<ImageRecord, EngineError>> + Send + 'static,
    {
        let host = self.0.clone();
        let work = |context| async move { Ok(host.show_image(&work(host.clone(), context).await?, &[])) };
        self.0.operations.start(kind, target, OnHangUp::Cancel, work, |_, _| async {})
    }

    /// Deletes an image that no VM uses.
    ///
    /// # Errors
    /// When there is none, or it is in use.
    pub fn delete_image(&self, reference: &str) -> Result<(), ApiError> {
        Ok(self.0.delete_image(reference)?)
    }

    /// All kernels, by name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn kernels(&self) -> Result<Vec<Kernel>, ApiError> {
        let vms = self.0.store.vms()?;
        Ok(self.0.store.kernels()?.iter().map(|kernel| self.0.show_kernel(kernel, &vms)).collect())
    }

    /// The kernel that `reference` names.
    ///
    /// # Errors
    /// When none or several do.
    pub fn kernel(&self, reference: &str) -> Result<Kernel, ApiError> {
        let kernels = self.0.store.kernels()?;
        let kernel = resolve(&kernels, reference).map_err(|error| unresolved("kernel", reference, error))?;
        Ok(self.0.show_kernel(kernel, &self.0.store.vms()?))
    }

    /// Makes a kernel of a package or of files.
    pub fn import_kernel(
        &self,
        name: Name,
        format: KernelFormat,
        input: impl Read + Send + 'static,
    ) -> Events {
        let target = name.to_string();
        self.kernel_operation(OperationKind::KernelImport, &target, move |host, context| async move {
            host.import_kernel(name, format, input, &context).await
        })
    }

    /// Gets a kernel from the catalog.
    pub fn pull_kernel(&self, name: Name) -> Events {
        let target = name.to_string();
        self.kernel_operation(OperationKind::KernelPull, &target, move |host, context| async move {
            host.pull_kernel(name, &context).await
        })
    }

    fn kernel_operation<W>(
        &self,
        kind: OperationKind,
        target: &str,
        work: impl FnOnce(Arc<Host>, Context) -> W + Send + 'static,
    ) -> Events
    where
        W: Future<Output = Result<KernelRecord, EngineError>> + Send + 'static,
    {
        let host = self.0.clone();
        let work = |context| async move { Ok(host.show_kernel(&work(host.clone(), context).await?, &[])) };
        self.0.operations.start(kind, target, OnHangUp::Cancel, work, |_, _| async {})
    }

    /// Deletes a kernel that no VM uses.
    ///
    /// # Errors
    /// When there is none, or it is in use.
    pub fn delete_kernel(&self, reference: &str) -> Result<(), ApiError> {
        Ok(self.0.delete_kernel(reference)?)
    }

    fn show_vm(&self, record: VmRecord) -> Vm {
        let handle = record.handle.as_ref();
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
            rm: record.rm,
            created_at: record.created_at,
            started_at: record.started_at,
            last_error: record.last_error,
        }
    }
}

/// Refuses what cannot be made, before anything is.
fn check(request: &CreateVm, defaults: &VmDefaults) -> Result<(), ApiError> {
    let invalid = |message: String| Err(ApiError::new(ErrorKind::Invalid, message));
    let vcpu = request.vcpu.unwrap_or_else(|| defaults.vcpu());
    if !(1..=Limits::VCPU).contains(&vcpu) {
        return invalid(format!("{vcpu} virtual CPUs cannot be had: from 1 to {}", Limits::VCPU));
    }
    let within = |what: &str, size: Size, least: Size, most: Size| {
        if (least..=most).contains(&size) {
            Ok(())
        } else {
            invalid(format!("{what} of {size} cannot be had: from {least} to {most}"))
        }
    };
    let memory = request.memory.unwrap_or_else(|| defaults.memory());
    let disk = request.disk_size.unwrap_or_else(|| defaults.disk_size());
    let overlay = request.system_overlay_size.unwrap_or_else(|| defaults.system_overlay_size());
    within("memory", memory, Limits::LEAST_MEMORY, Limits::MOST_MEMORY)?;
    within("a work disk", disk, Limits::LEAST_DISK, Limits::MOST_DISK)?;
    within("a system overlay", overlay, Limits::LEAST_DISK, Limits::MOST_DISK)?;
    if request.rm && request.detach {
        return invalid("a VM that goes with its session (--rm) cannot be detached from it (-d)".to_owned());
    }
    Ok(())
}

fn made_up() -> Result<VmName, EngineError> {
    names::from_random(u16::from_be_bytes(random())).parse().map_err(internal)
}

fn internal(error: InvalidName) -> EngineError {
    ApiError::new(ErrorKind::Internal, format!("a made-up name: {error}")).into()
}

fn name_in_use(name: &VmName) -> ApiError {
    ApiError::new(ErrorKind::AlreadyExists, format!("there is a VM {name} already"))
        .hint(format!("choose another name, or delete it with: banger vm delete {name}"))
}

fn gone(id: &Id) -> EngineError {
    ApiError::new(ErrorKind::NotFound, format!("VM {id} is gone")).into()
}
