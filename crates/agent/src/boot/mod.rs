//! Boots the guest as PID 1: modules, root, work disk, and the start of the image's init.

mod cmdline;
mod disks;
mod error;
mod fstab;
mod modules;
mod mounts;
mod root;
mod seed;

use std::{
    io::{self, PipeWriter, Read, Write},
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
};

use cmdline::CmdLine;
use error::BootError;
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::{
    boot_record::BootRecord,
    configure::sshd,
    console::log,
    init,
    power::{self, Power},
    supervisor::{self, PROCESS_NAME},
    vsock,
};

/// Hard limit of open descriptors for programs; systemd's value.
const MAX_DESCRIPTORS: u64 = 512 << 10;

/// Runs PID 1 until it becomes the image's init or the guest ends. If the boot fails, it prints the reason on the
/// console and resets the machine, which ends the VMM.
pub(crate) fn boot() -> ExitCode {
    let mut record = BootRecord::default();
    record.mark("init");
    match bring_up(&mut record) {
        Ok(root) => become_init(record, root),
        Err(error) => log(&format!("cannot boot: {error}")),
    }
    power::reset();
    ExitCode::FAILURE
}

fn bring_up(record: &mut BootRecord) -> Result<root::Root, BootError> {
    mounts::kernel_file_systems()?;
    let cmdline = CmdLine::read()?;
    record.ready_port = cmdline.ready_port;
    modules::load()?;
    record.mark("modules");
    let mut disks = disks::Disks::new();
    let mut root = root::mount(cmdline.root, &mut disks)?;
    record.mark("root");
    let work = if cmdline.work { Some(root.mount_work_disk(&disks.next()?)?) } else { None };
    root.enter()?;
    if let Some(work) = work {
        root::mount_home(&work)?;
        record.mark("work_disk");
    }
    // Done before the image's init starts anything. Failures here do not stop the boot.
    if let Err(error) = sshd::restrict(Path::new("/")) {
        log(&format!("cannot configure sshd: {error}"));
    }
    if let Err(error) = fstab::comment_out_missing(Path::new("/")) {
        log(&format!("cannot update /etc/fstab: {error}"));
    }
    if let Err(error) = sshd::make_host_key(Path::new("/")) {
        log(&format!("cannot create a host key for sshd: {error}"));
    }
    Ok(root)
}

/// Turns PID 1 into the image's init, with the agent's supervisor as its child. Without an init, PID 1 itself is the
/// supervisor.
fn become_init(mut record: BootRecord, root: root::Root) {
    let call = vsock::call_host(record.ready_port);
    if let Some(init) = init::find(Path::new("/")) {
        record.init = Some(init.to_owned());
        let spawned = spawn_supervisor(&record, call.as_ref());
        if let Err(error) = &spawned {
            log(&format!("cannot serve the host: {error}"));
        }
        let error = Command::new(init).exec();
        log(&format!("cannot run {init}, continuing without it: {error}"));
        record.init = None;
        if let Ok((mut supervisor, mut pipe)) = spawned {
            // Fails if the supervisor has ended.
            let _ = pipe.write_all(&[0]);
            let _ = supervisor.wait();
        }
    }
    mounts::mount_without_init();
    let limit = Rlimit { current: Some(1024), maximum: Some(MAX_DESCRIPTORS) };
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        log(&format!("cannot raise the file descriptor limit: {error}"));
    }
    if let Err(error) = supervisor::run_as_init(&record, call, &Power::Agent(root.mounted)) {
        log(&format!("cannot serve the host: {error}"));
    }
}

/// Starts the supervisor, which waits while this process becomes the init. A successful exec closes this end of the
/// pipe; a byte in the pipe reports a failed one.
fn spawn_supervisor(record: &BootRecord, call: Option<&OwnedFd>) -> io::Result<(Child, PipeWriter)> {
    let (reader, writer) = io::pipe()?;
    let call = call.map(OwnedFd::try_clone).transpose()?;
    let mut supervisor = Command::new("/proc/self/exe");
    supervisor.arg0(PROCESS_NAME).arg(supervisor::SUPERVISE).arg(serde_json::to_string(record)?);
    supervisor.process_group(0).stdin(reader).stdout(call.map_or_else(Stdio::null, Stdio::from));
    Ok((supervisor.spawn()?, writer))
}

/// Waits until PID 1 is the image's init. Returns false if the init cannot be run.
pub(crate) fn wait_for_init() -> bool {
    io::stdin().read(&mut [0]).is_ok_and(|count| count == 0)
}
