//! Shuts the guest down, always by a reset: a reset ends both VMMs' processes, a power-off does not.

use std::{fs, io, os::fd::OwnedFd, time::Duration};

use banger_proto::InitKind;
use rustix::{
    fs::sync,
    mount::{MountFlags, mount_remount},
    process::{Pid, Signal, kill_process},
    system::{RebootCommand, reboot},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep, timeout},
};

use crate::{console::log, init};

/// Time for programs to end by themselves, when the agent ends them.
const TERM_TIMEOUT: Duration = Duration::from_secs(2);

/// Timeout for the image's init, if the host does not set one.
const INIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Time reserved for the agent at the end of the host's timeout: [`TERM_TIMEOUT`], and as much to sync.
const AGENT_RESERVE: Duration = Duration::from_secs(4);

/// The process that ends the guest.
#[derive(Debug)]
pub(crate) enum Power {
    /// The agent as PID 1, with descriptors of the file systems that it mounted, last one first.
    Agent(Vec<OwnedFd>),
    /// The image's init, at the agent's request.
    Init,
}

impl Power {
    /// Ends the guest in order, within `grace` if given.
    pub(crate) async fn off(&self, grace: Option<Duration>) {
        match self {
            Power::Agent(mounted) => {
                end_programs().await;
                remount_read_only(mounted);
                reset();
            }
            Power::Init => {
                if ask_init() {
                    sleep(grace.map_or(INIT_TIMEOUT, |grace| grace.saturating_sub(AGENT_RESERVE))).await;
                }
                log("the init did not shut down the guest; the agent does");
                end_programs().await;
                reset();
            }
        }
    }
}

/// Waits for Ctrl-Alt-Del, which the kernel reports to PID 1 as `SIGINT`; the agent's server sends it too.
pub(crate) async fn ctrl_alt_del() -> io::Result<()> {
    // Fails only without CAP_SYS_BOOT, which PID 1 has. The key would then reset the machine at once.
    let _ = reboot(RebootCommand::CadOff);
    signal(SignalKind::interrupt())?.recv().await;
    Ok(())
}

/// Resets the machine at once. Syncs the disks first, because unwritten data would be lost.
pub(crate) fn reset() {
    sync();
    if let Err(error) = reboot(RebootCommand::Restart) {
        log(&format!("cannot reset the machine: {error}"));
    }
}

async fn end_programs() {
    signal_all(Signal::TERM);
    // Each child that ends causes a SIGCHLD; the reaper removes it from the process list.
    if let Ok(mut sigchld) = signal(SignalKind::child()) {
        let deadline = Instant::now() + TERM_TIMEOUT;
        while other_programs_run() && timeout(deadline - Instant::now(), sigchld.recv()).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }
    signal_all(Signal::KILL);
}

/// Sends `signal` to every process except this one and the kernel's own threads (kill(2), -1).
fn signal_all(signal: Signal) {
    for pid in processes() {
        // The process may have ended since.
        let _ = kill_process(pid, signal);
    }
}

fn other_programs_run() -> bool {
    processes().next().is_some()
}

/// Returns all processes that run a program, except this one.
fn processes() -> impl Iterator<Item = Pid> {
    let own = rustix::process::getpid();
    let names = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = names.filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw));
    pids.filter(move |pid| *pid != own && runs_a_program(*pid))
}

/// Returns whether a process has a memory map; kernel threads and ended processes have none (proc(5)).
fn runs_a_program(pid: Pid) -> bool {
    fs::read(format!("/proc/{}/maps", pid.as_raw_nonzero())).is_ok_and(|maps| !maps.is_empty())
}

/// Makes the file systems read-only. This closes their journals, so that a check finds nothing to repair.
fn remount_read_only(mounted: &[OwnedFd]) {
    use std::os::fd::AsRawFd;
    sync();
    for mount in mounted {
        // The path of a descriptor leads to mounts that no other path reaches.
        let path = format!("/proc/self/fd/{}", mount.as_raw_fd());
        if let Err(error) = mount_remount(path, MountFlags::RDONLY, c"") {
            log(&format!("cannot remount a disk read-only; it is only synced: {error}"));
        }
    }
}

/// Asks the init to reset the machine, by the signal of its kind. Returns false if this init ignores the signal, such
/// as a script.
fn ask_init() -> bool {
    let signal = match init::running() {
        // systemd(1): SIGRTMIN+5 starts reboot.target. 34 is glibc's SIGRTMIN.
        InitKind::Systemd => banger_sys::signal_of(34 + 5),
        // busybox init.c: SIGTERM is reboot.
        InitKind::Busybox => Some(Signal::TERM),
        // The kernel's signal for Ctrl-Alt-Del; the agent as PID 1, sysvinit, openrc-init, runit and s6 all handle it.
        InitKind::Other => Some(Signal::INT),
    };
    let signal = signal.filter(|signal| handles_signal(*signal));
    signal.is_some_and(|signal| kill_process(Pid::INIT, signal).is_ok())
}

/// Returns whether PID 1 handles `signal`, or blocks it to read it from a descriptor. The kernel drops all other
/// signals to PID 1 (proc(5)).
fn handles_signal(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/1/status").unwrap_or_default();
    let masks = status.lines().filter_map(|line| {
        let mask = line.strip_prefix("SigCgt:").or_else(|| line.strip_prefix("SigBlk:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    });
    masks.fold(0, |all, mask| all | mask) >> (signal.as_raw() - 1) & 1 == 1
}
