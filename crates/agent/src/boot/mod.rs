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
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, ExitCode},
    rc::Rc,
};

use cmdline::CmdLine;
use error::BootError;
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::{
    configure::sshd,
    console::say,
    init,
    marks::Booted,
    power::{self, Power},
    vsock,
};

/// Hard limit of open descriptors for programs; systemd's value.
const DESCRIPTORS: u64 = 512 << 10;

/// Runs PID 1 until it becomes the image's init or the guest ends. If the boot fails, it prints the reason on the
/// console and resets the machine, which ends the VMM.
pub(crate) fn boot() -> ExitCode {
    let mut booted = Booted::default();
    booted.mark("init");
    match bring_up(&mut booted) {
        Ok(root) => hand_over(booted, root),
        Err(error) => say(&format!("cannot boot: {error}")),
    }
    power::reset();
    ExitCode::FAILURE
}

fn bring_up(booted: &mut Booted) -> Result<root::Root, BootError> {
    mounts::kernel_file_systems()?;
    let cmdline = CmdLine::read()?;
    booted.ready_port = cmdline.ready_port;
    modules::load()?;
    booted.mark("modules");
    let mut disks = disks::Disks::new();
    let mut root = root::mount(cmdline.root, &mut disks)?;
    booted.mark("root");
    let work = if cmdline.work { Some(root.mount_work_disk(&disks.next()?)?) } else { None };
    root.enter()?;
    if let Some(work) = work {
        root::place_at_home(&work)?;
        booted.mark("work_disk");
    }
    // Done before the image's init starts anything. Failures here do not stop the boot.
    if let Err(error) = sshd::restrict(Path::new("/")) {
        say(&format!("cannot configure sshd: {error}"));
    }
    if let Err(error) = fstab::leave_out_missing(Path::new("/")) {
        say(&format!("cannot update /etc/fstab: {error}"));
    }
    if let Err(error) = sshd::make_host_key(Path::new("/")) {
        say(&format!("cannot create a host key for sshd: {error}"));
    }
    Ok(root)
}

/// Turns PID 1 into the image's init, with the agent as its child. Without an init, PID 1 itself serves the host.
fn hand_over(mut booted: Booted, root: root::Root) {
    if let Some(init) = init::find(Path::new("/")) {
        booted.init = Some(init.to_owned());
        let beside = serve_beside_init(&booted);
        if let Err(error) = &beside {
            say(&format!("cannot serve the host: {error}"));
        }
        let error = Command::new(init).exec();
        say(&format!("cannot run {init}, continuing without it: {error}"));
        booted.init = None;
        if let Ok((mut agent, mut tell)) = beside {
            // Fails if the agent has ended.
            let _ = tell.write_all(&[0]);
            let _ = agent.wait();
        }
    }
    mounts::for_no_init();
    let limit = Rlimit { current: Some(1024), maximum: Some(DESCRIPTORS) };
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        say(&format!("cannot raise the file descriptor limit: {error}"));
    }
    vsock::run(booted, Power::Own(Rc::new(root.mounted)));
}

/// Starts the agent that serves while this process becomes the init. A successful exec closes this end of the pipe; a
/// byte in the pipe reports a failed one.
fn serve_beside_init(booted: &Booted) -> io::Result<(Child, PipeWriter)> {
    let (told, tell) = io::pipe()?;
    let mut agent = Command::new("/proc/self/exe");
    // systemd does not kill a process with such a name until the very end (its "Root storage daemons" page).
    agent.arg0("@banger-agent").arg("serve").arg(serde_json::to_string(booted)?).process_group(0);
    Ok((agent.stdin(told).spawn()?, tell))
}

/// Waits until PID 1 is the image's init. Returns false if the init cannot be run.
pub(crate) fn init_runs() -> bool {
    io::stdin().read(&mut [0]).is_ok_and(|told| told == 0)
}
