//! Starts a VM: its disks, its sockets, its processes, and the agent's first request.

use std::{
    fs,
    os::{fd::OwnedFd, unix::fs::symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use banger_api::{
    ApiError, ErrorKind, GuestSettings, Period, Remedy, Size, SubjectKind, VmState, Vmm as ApiVmm,
};
use banger_proto::{
    AGENT_PORT, Configure, GENERATION_OF_VARIABLES, Greeting, NetworkConfig, READY_PORT, Reply, Request,
};
use banger_sys::confine::Namespaces;
use banger_vmm::{Accel, Disk, GuestListener, LaunchPlan, Role, VmSpec, Vmm, VmmKind};
use jiff::Timestamp;
use tokio::time::timeout;

use super::{
    console::{self, CONSOLE_LINES},
    guest::{Agent, unexpected},
    network, preflight,
    process::{EXIT_TIMEOUT, ProcessExit, VmProcesses},
    revert::revert,
    services::Services,
    spawn::{Pipes, Spawner, confine},
    timezone::timezone,
};
use crate::{
    dirs,
    error::EngineError,
    files::sync,
    operation::Context,
    resource::{ProcessRole, Resource},
    spans::now_ns,
    store::{Handle, NetworkSockets, Scope, USER_NETWORK, VmRecord},
};

/// Timeout for a helper to create its socket. A helper that exits is noticed at once.
const HELPER_TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum size of an image's environment variables, in bytes: below the limits of Linux and of a message.
const MAX_VARIABLES: usize = 128 << 10;

/// Maximum number of boot steps of a guest that are recorded, and maximum length of their names in bytes.
const MAX_BOOT_STEPS: usize = 16;
const MAX_STEP_NAME: usize = 32;

/// Kernel command line of every VM. The console is the first serial port. A panic causes a reset, and a reset ends
/// the VMM. The network card stays `eth0`. systemd does not prompt for a root password at first boot. SELinux is off,
/// because no image has its labels. Disabled are: the timer check, which panics when a busy host without KVM delays
/// the guest; cipher self-tests, a tenth of the boot without KVM; and probes for hardware that no VMM provides.
const CMDLINE: &str = "console=ttyS0 reboot=k panic=-1 quiet net.ifnames=0 no_timer_check cryptomgr.notests \
    i8042.noaux i8042.nokbd 8250.nr_uarts=1 systemd.firstboot=no selinux=0 banger.root=overlay banger.work=1";

/// Starts the VM of `record`. A failed start is undone. Exception: a VM that runs but whose agent never answers is
/// kept, so that the user can examine it.
pub(super) async fn start(
    services: &Services,
    record: &VmRecord,
    context: &Context,
    processes: &mut VmProcesses,
    guest_settings: GuestSettings,
) -> Result<(), EngineError> {
    if matches!(record.state, VmState::Starting | VmState::Stopping) {
        // Resources that bangerd could not release when it started.
        revert(&services.store, &record.id, Scope::Run).await?;
        services.store.set_vm_down(&record.id, None)?;
    }
    preflight::before_start(services, record, context).await?;
    services.store.set_vm_state(&record.id, VmState::Starting)?;
    let mut start = Start { services, record, context, processes, guest_settings, booted: false };
    let Err(error) = start.bring_up().await else { return Ok(()) };
    let error = ApiError::from(error);
    if error.kind == ErrorKind::Timeout && start.booted {
        return Err(error.into());
    }
    *processes = VmProcesses::default();
    revert(&services.store, &record.id, Scope::Run).await?;
    // A cancelled start records no error.
    let why = (error.kind != ErrorKind::Cancelled).then_some(error.message.as_str());
    services.store.set_vm_down(&record.id, why)?;
    Err(error.into())
}

struct Start<'a> {
    services: &'a Services,
    record: &'a VmRecord,
    context: &'a Context,
    processes: &'a mut VmProcesses,
    guest_settings: GuestSettings,
    /// True once the VMM has been started and the record says `running`.
    booted: bool,
}

impl Start<'_> {
    async fn bring_up(&mut self) -> Result<(), EngineError> {
        let (services, record) = (self.services, self.record);
        let limit = services.config.current()?.ready_timeout();
        self.context.stage("starting VM").await;
        let run_dir = services.dirs.vm_runtime(record.id.as_str());
        services.store.journal(&record.id, Scope::Run, &Resource::Directory { path: run_dir.clone() })?;
        dirs::create_private(&run_dir)?;
        // In the journal since the VM was created.
        dirs::create_private(services.vm_dir(record).path())?;
        let (logger, pipes) = self.spawner().start_console_logger()?;
        self.processes.add(ProcessRole::Console, logger);
        let (disks, initrd, vmm, network) = tokio::join!(
            self.disks(),
            services.initrds.ensure(&record.kernel_id, self.context),
            self.vmm(),
            network::start(self.spawner(), &pipes, self.context),
        );
        let (disks, initrd, vmm, network) = (disks?, initrd?, vmm?, network?);
        services.kernels.check_boots(&record.kernel_id, vmm.kind(), self.context).await?;
        self.context.check()?;
        let largest_file = largest(&disks, record.memory.as_bytes())?;
        let plan = vmm.plan(&VmSpec {
            id: record.id.to_string(),
            vcpu: record.vcpu,
            memory_mib: record.memory.as_mib(),
            kernel: services.kernels.dir(&record.kernel_id).vmlinux(),
            initrd,
            cmdline: CMDLINE.to_owned(),
            disks,
            largest_file,
            vsock_cid: record.cid,
            ready_port: READY_PORT,
            network: network.as_ref().map(|network| network.tap.clone()),
            run_dir,
        })?;
        for (path, bytes) in &plan.files {
            fs::write(path, bytes).map_err(EngineError::file("write", path))?;
        }
        for (path, target) in &plan.links {
            symlink(target, path).map_err(EngineError::file("link", path))?;
        }
        let mut ready = banger_vmm::listen(&plan.guest, plan.ready_port)?;
        let (mut inside, mut guest_network, mut sockets) = (None, None, None);
        if let Some(network) = network {
            network.processes.into_iter().for_each(|(role, process)| self.processes.add(role, process));
            inside = Some((network.namespaces, network.lifeline));
            guest_network = Some(network.guest);
            sockets = Some(network.sockets);
        }
        let pid = self.launch(&plan, pipes, inside).await?;
        let handle = handle(vmm.as_ref(), &plan, pid, sockets);
        let configured = timeout(limit.as_duration(), self.configure_guest(guest_network, &mut ready));
        let (answer, synced) = tokio::join!(configured, self.sync_names());
        synced?;
        let Ok(answer) = answer else { return self.record_unanswered_start(&handle, limit) };
        answer?;
        services.store.set_vm_running(&record.id, Timestamp::now(), &handle)?;
        Ok(())
    }

    /// Returns the VMM to use, and reports once if it is a slower one.
    async fn vmm(&self) -> Result<Box<dyn Vmm>, EngineError> {
        let (vmm, slower) = self.services.vmms.choose_for_vm(self.record).await?;
        if vmm.accel() == Accel::Kvm
            && self.record.ran_with.is_some_and(|ran| ran.accel == banger_api::Accel::Tcg)
        {
            self.context
                .note(format!("VM {} runs with KVM now; it last ran without", self.record.name))
                .await;
        }
        if let Some(slower) = slower
            && self.services.vmms.mark_slow_warning_shown()
        {
            self.context.warn(slower).await;
        }
        Ok(vmm)
    }

    /// Returns the image's disk and the VM's own disks, which are created if missing.
    async fn disks(&self) -> Result<Vec<Disk>, EngineError> {
        let began = now_ns();
        let dir = self.services.vm_dir(self.record);
        let overlay = (dir.overlay(), self.record.system_overlay_size, "banger-overlay");
        let work = (dir.work_disk(), self.record.disk_size, "banger-work");
        let image = self.services.images.dir(&self.record.image_id).rootfs();
        let disks = vec![
            Disk { path: image, read_only: true },
            Disk { path: overlay.0.clone(), read_only: false },
            Disk { path: work.0.clone(), read_only: false },
        ];
        // After a power loss, the next daemon deletes a VM whose session has ended.
        let durable = !self.record.rm;
        let missing: Vec<_> = [overlay, work].into_iter().filter(|(path, ..)| !path.exists()).collect();
        self.context.blocking(move |_| create_disks(&missing, durable)).await?;
        self.context.spans.end("disks", began);
        Ok(disks)
    }

    /// Syncs the names of a new VM's disks. This takes milliseconds, while the VM boots: before a client learns that
    /// the VM exists, its disks must survive a power loss.
    async fn sync_names(&self) -> Result<(), EngineError> {
        if self.record.rm || self.record.last_used_at.is_some() {
            return Ok(());
        }
        let dir = self.services.vm_dir(self.record);
        // Its own directory, that of all VMs, and the state directory.
        let sync_names = move |_: &Context| dir.path().ancestors().take(3).try_for_each(sync);
        self.context.blocking(sync_names).await
    }

    /// Starts the plan's processes. Returns the VMM's pid. It runs in the namespaces, and inherits the descriptor.
    async fn launch(
        &mut self,
        plan: &LaunchPlan,
        pipes: Pipes,
        mut inside: Option<(Namespaces, OwnedFd)>,
    ) -> Result<u32, EngineError> {
        for planned in &plan.processes {
            self.context.check()?;
            let began = now_ns();
            let (args, mut descriptors) = planned.open_sockets()?;
            let mut command = Command::new(&planned.program);
            command.args(args).stdin(Stdio::null()).stderr(Pipes::duplicate(&pipes.vmm_output)?);
            let (role, stdout) = match planned.role {
                Role::VsockDevice => (ProcessRole::VsockDevice, &pipes.vmm_output),
                Role::Vmm => (ProcessRole::Vmm, &pipes.console),
            };
            command.stdout(Pipes::duplicate(stdout)?);
            let (namespaces, lifeline) = inside.take_if(|_| planned.in_network).unzip();
            descriptors.extend(lifeline);
            confine(&mut command, &planned.confinement, descriptors, namespaces)?;
            let process = self.spawner().spawn(role, command)?;
            self.processes.add(role, process);
            if let Some(socket) = &planned.ready
                && let Some(exit) = self.wait_for_socket(socket).await?
            {
                // The console logger reads as long as a pipe is open.
                drop(pipes);
                return Err(self.exit_error(exit).await);
            }
            self.context.spans.end(&format!("start {role}"), began);
        }
        let vmm = self.processes.vmm.as_ref().map(|vmm| vmm.pid);
        vmm.ok_or_else(|| self.vmm_error("its launch plan has no VMM".to_owned()))
    }

    fn spawner(&self) -> Spawner<'_> {
        Spawner { services: self.services, record: self.record }
    }

    /// Waits until a helper has created its socket. Returns the exit of a process that prevented it.
    async fn wait_for_socket(&self, socket: &Path) -> Result<Option<ProcessExit>, EngineError> {
        let appeared = timeout(HELPER_TIMEOUT, dirs::wait_until_exists(socket));
        tokio::select! {
            created = appeared => match created {
                Ok(created) => created.map(|()| None),
                Err(_) => Err(self.vmm_error(format!(
                    "{} did not appear within {} s",
                    socket.display(),
                    HELPER_TIMEOUT.as_secs()
                ))),
            },
            exit = self.processes.first_exit() => Ok(Some(exit)),
            () = self.context.cancel.cancelled() => Err(EngineError::Cancelled),
        }
    }

    /// Waits for the agent's connection and sends the guest its configuration.
    async fn configure_guest(
        &self,
        network: Option<NetworkConfig>,
        ready: &mut GuestListener,
    ) -> Result<(), EngineError> {
        let began = now_ns();
        let accepted = async { Ok(ready.accept().await?) };
        let stream = self.unless_exited(accepted).await?;
        let (mut agent, greeting) = self.unless_exited(Agent::handshake(stream)).await?;
        let connected = now_ns();
        self.context.spans.add("boot", began, connected);
        self.boot_spans(&greeting, connected);
        let proxies = if network.is_some() { self.proxies().await } else { Vec::new() };
        let variables = [self.variables()?, proxies].concat();
        let configure = Request::Configure(Box::new(Configure {
            hostname: Some(self.record.name.to_string()),
            network,
            clock_ns: u64::try_from(Timestamp::now().as_nanosecond()).ok(),
            timezone: timezone(Path::new("/etc/localtime")),
            authorized_keys: self.guest_settings.authorized_keys().to_vec(),
            locale: self.guest_settings.locale().map(str::to_owned),
            certificates: Some(self.guest_settings.certificates().as_pem().to_vec()),
            env: if greeting.generation < GENERATION_OF_VARIABLES { Vec::new() } else { variables },
            ..Configure::default()
        }));
        match self.unless_exited(agent.request(&configure)).await? {
            Reply::Configured => {}
            other => return Err(unexpected(&other)),
        }
        self.context.spans.end("configure", connected);
        Ok(())
    }

    /// Returns the image's environment variables, up to [`MAX_VARIABLES`] bytes.
    fn variables(&self) -> Result<Vec<String>, EngineError> {
        let images = self.services.store.images()?;
        let image = images.into_iter().find(|image| image.id == self.record.image_id);
        let mut remaining = MAX_VARIABLES;
        let fits = |variable: &String| {
            remaining = remaining.saturating_sub(variable.len());
            remaining > 0
        };
        Ok(image.map(|image| image.config.env.into_iter().take_while(fits).collect()).unwrap_or_default())
    }

    /// Returns the variables of the user's proxies that the VM can reach; warns of others.
    async fn proxies(&self) -> Vec<String> {
        let VmRecord { name, allow_host, .. } = self.record;
        let proxies = self.guest_settings.proxies();
        let missing: Vec<_> =
            proxies.host_ports().into_iter().filter(|port| !allow_host.ports().contains(port)).collect();
        if !missing.is_empty() {
            let ports = |ports: &[u16]| ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            let all = [allow_host.ports(), &missing].concat();
            self.context
                .warn(format!(
                    "VM {name} does not reach the proxy on port {} of this host; stop the VM and run \
                     banger vm set --allow-host {} {name}",
                    ports(&missing),
                    ports(&all)
                ))
                .await;
        }
        proxies.for_session(allow_host)
    }

    /// Adds the boot phases that the agent reports, converted to the host's clock.
    fn boot_spans(&self, greeting: &Greeting, connected_ns: u64) {
        let Some(last) = greeting.boot.last() else { return };
        let powered_ns = connected_ns.saturating_sub(last.at_us.saturating_mul(1000));
        let mut from = powered_ns;
        for mark in greeting.boot.iter().filter(|mark| is_step_name(&mark.name)).take(MAX_BOOT_STEPS) {
            let at = powered_ns.saturating_add(mark.at_us.saturating_mul(1000)).min(connected_ns);
            self.context.spans.add(&format!("guest: {}", mark.name), from, at.max(from));
            from = at.max(from);
        }
    }

    /// Awaits `future`, unless the VM ends or the operation is cancelled first.
    async fn unless_exited<T>(
        &self,
        future: impl Future<Output = Result<T, EngineError>>,
    ) -> Result<T, EngineError> {
        tokio::select! {
            // A guest that ends breaks its connections shortly before its VMM exits. The exit explains more.
            result = future => match result {
                Err(error @ EngineError::Guest(_)) => match timeout(EXIT_TIMEOUT, self.processes.first_exit()).await {
                    Ok(exit) => Err(self.exit_error(exit).await),
                    Err(_) => Err(error),
                },
                result => result,
            },
            exit = self.processes.first_exit() => Err(self.exit_error(exit).await),
            () = self.context.cancel.cancelled() => Err(EngineError::Cancelled),
        }
    }

    fn console_lines(&self) -> (PathBuf, Vec<String>) {
        let path = self.services.vm_dir(self.record).console_log();
        let lines = console::last_lines(&path, CONSOLE_LINES);
        (path, lines)
    }

    async fn exit_error(&self, exit: ProcessExit) -> EngineError {
        self.processes.wait_for_console().await;
        let (path, console) = self.console_lines();
        let message = if console.is_empty() {
            let lines = console::last_lines(&self.services.vm_dir(self.record).vmm_log(), 1);
            let why = lines.first().map(|line| format!(": {line}")).unwrap_or_default();
            format!("VM {} did not start: its {exit}{why}", self.record.name)
        } else {
            format!("VM {} ended before its guest agent answered: its {exit}", self.record.name)
        };
        let error = ApiError::new(ErrorKind::Guest, message).log(path.display().to_string());
        let error = error.about(SubjectKind::Vm, &self.record.name).remedy(Remedy::ChangeImageOrKernel);
        ApiError { console, ..error }.into()
    }

    fn vmm_error(&self, message: String) -> EngineError {
        let log = self.services.vm_dir(self.record).vmm_log();
        ApiError::new(ErrorKind::Io, message).log(log.display().to_string()).into()
    }

    /// Records a VM that runs but whose agent never answered. It is kept, so that the user can examine it.
    fn record_unanswered_start(&mut self, handle: &Handle, limit: Period) -> Result<(), EngineError> {
        let VmRecord { id, name, .. } = self.record;
        self.booted = true;
        self.services.store.set_vm_running(id, Timestamp::now(), handle)?;
        let (path, console) = self.console_lines();
        let message = format!("VM {name} is running, but its guest agent did not answer within {limit}");
        let error = ApiError::new(ErrorKind::Timeout, message).log(path.display().to_string());
        let error = error.about(SubjectKind::Vm, name).remedy(Remedy::ReadConsole);
        Err(ApiError { console, ..error }.into())
    }
}

/// Returns whether the agent may have given a boot step this name, such as `work_disk`.
fn is_step_name(name: &str) -> bool {
    (1..=MAX_STEP_NAME).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// Returns the size of the largest file that a VM writes, in bytes: a disk, or its memory, which QEMU has in a file.
fn largest(disks: &[Disk], memory: u64) -> Result<u64, EngineError> {
    disks.iter().filter(|disk| !disk.read_only).try_fold(memory, |largest, disk| {
        let meta = disk.path.metadata().map_err(EngineError::file("stat", &disk.path))?;
        Ok(largest.max(meta.len()))
    })
}

/// Creates empty disks: paths, sizes and labels. They get their names when they are complete: a partial disk would be
/// mistaken for the user's disk.
fn create_disks(disks: &[(PathBuf, Size, &str)], durable: bool) -> Result<(), EngineError> {
    let partial = |path: &Path| path.with_extension("partial");
    for (path, size, label) in disks {
        banger_image::write_empty_ext4(&partial(path), size.as_bytes(), label)?;
    }
    if durable {
        // At the same time, because most of a sync is waiting.
        thread::scope(|scope| {
            let sync = |path: &Path| sync(&partial(path));
            let syncs: Vec<_> = disks.iter().map(|(path, ..)| scope.spawn(move || sync(path))).collect();
            let panicked = |_| Err(ApiError::new(ErrorKind::Internal, "a sync of a disk panicked").into());
            syncs.into_iter().try_for_each(|sync| sync.join().unwrap_or_else(panicked))
        })?;
    }
    for (path, ..) in disks {
        fs::rename(partial(path), path).map_err(EngineError::file("write", path))?;
    }
    Ok(())
}

fn handle(vmm: &dyn Vmm, plan: &LaunchPlan, pid: u32, sockets: Option<NetworkSockets>) -> Handle {
    Handle {
        vmm: match vmm.kind() {
            VmmKind::Firecracker => ApiVmm::Firecracker,
            VmmKind::Qemu => ApiVmm::Qemu,
        },
        accel: match vmm.accel() {
            Accel::Kvm => banger_api::Accel::Kvm,
            Accel::Tcg => banger_api::Accel::Tcg,
        },
        pid,
        control: plan.control.clone(),
        guest: plan.guest.clone(),
        agent_port: AGENT_PORT,
        network: if sockets.is_some() { USER_NETWORK } else { "none" }.to_owned(),
        sockets,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_steps_have_short_plain_names() {
        assert!(["init", "modules", "root", "work_disk", "listening"].into_iter().all(is_step_name));
        assert!(!["", "a b", "A", "a\x1b[2J", "ä", &"a".repeat(33)].into_iter().any(is_step_name));
    }
}
