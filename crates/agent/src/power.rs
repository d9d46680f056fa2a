//! Ending the guest. It always ends by a reset: that ends the process of either VMM, and a power-off not of both.

use std::{fs, os::fd::OwnedFd, rc::Rc, time::Duration};

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

use crate::{console::say, init};

/// How long programs may take to end by themselves, when the agent ends them.
const TERM: Duration = Duration::from_secs(2);

/// How long the image's init may take where the host does not say how long it waits.
const INIT: Duration = Duration::from_secs(60);

/// What of the host's time is for the agent, if the init has not ended the guest: [`TERM`], and as much to sync.
const LAST: Duration = Duration::from_secs(4);

/// Who ends the guest.
#[derive(Debug, Clone)]
pub(crate) enum Power {
    /// The agent, which is PID 1, with the file systems that it mounted, those on top first.
    Own(Rc<Vec<OwnedFd>>),
    /// The image's init, which is asked.
    AskInit,
}

impl Power {
    /// Ends the guest in order, within `grace` if that is said.
    pub(crate) async fn off(&self, grace: Option<Duration>) {
        match self {
            Power::Own(mounted) => {
                end_programs().await;
                read_only(mounted);
                reset();
            }
            Power::AskInit => {
                if ask_init() {
                    sleep(grace.map_or(INIT, |grace| grace.saturating_sub(LAST))).await;
                }
                say("the init does not end the guest: the agent does");
                end_programs().await;
                reset();
            }
        }
    }
}

/// Ends the guest in order when the host presses Ctrl-Alt-Del, which the kernel tells PID 1 by `SIGINT`.
pub(crate) async fn on_ctrl_alt_del(power: Power) {
    // Fails only without CAP_SYS_BOOT, which PID 1 has. The key would then be a reset at once.
    let _ = reboot(RebootCommand::CadOff);
    match signal(SignalKind::interrupt()) {
        Ok(mut pressed) => {
            pressed.recv().await;
            power.off(None).await;
        }
        Err(error) => say(&format!("cannot listen for Ctrl-Alt-Del: {error}")),
    }
}

/// Resets the machine at once. What is not on the disks by then is lost, so it is put there first.
pub(crate) fn reset() {
    sync();
    if let Err(error) = reboot(RebootCommand::Restart) {
        say(&format!("cannot reset: {error}"));
    }
}

async fn end_programs() {
    signal_all(Signal::TERM);
    // Each end of a child is a SIGCHLD; the reaper takes them off the list.
    if let Ok(mut died) = signal(SignalKind::child()) {
        let deadline = Instant::now() + TERM;
        while others() && timeout(deadline - Instant::now(), died.recv()).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }
    signal_all(Signal::KILL);
}

/// Every process but this one and the kernel's own threads (kill(2), -1).
fn signal_all(signal: Signal) {
    for pid in processes() {
        // It may have ended since.
        let _ = kill_process(pid, signal);
    }
}

fn others() -> bool {
    processes().next().is_some()
}

/// All processes that run a program, but this one.
fn processes() -> impl Iterator<Item = Pid> {
    let own = rustix::process::getpid();
    let names = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = names.filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw));
    pids.filter(move |pid| *pid != own && runs_a_program(*pid))
}

/// A kernel thread, and a process that has ended, has no memory map (proc(5)).
fn runs_a_program(pid: Pid) -> bool {
    fs::read(format!("/proc/{}/maps", pid.as_raw_nonzero())).is_ok_and(|maps| !maps.is_empty())
}

/// Makes the file systems read-only, so that their journals are closed and a check finds nothing to do.
fn read_only(mounted: &[OwnedFd]) {
    use std::os::fd::AsRawFd;
    sync();
    for folder in mounted {
        // The path of the descriptor leads to mounts that no other path reaches any more.
        let path = format!("/proc/self/fd/{}", folder.as_raw_fd());
        if let Err(error) = mount_remount(path, MountFlags::RDONLY, c"") {
            say(&format!("a disk could not be closed, only synced: {error}"));
        }
    }
}

/// Each init has its own word for "end, and reset". False when this one does not listen to it: a script, say.
fn ask_init() -> bool {
    let signal = match init::running() {
        // systemd(1): SIGRTMIN+5 starts reboot.target. 34 is glibc's SIGRTMIN.
        InitKind::Systemd => banger_sys::signal_of(34 + 5),
        // busybox init.c: SIGTERM is reboot.
        InitKind::Busybox => Some(Signal::TERM),
        // What the kernel sends for Ctrl-Alt-Del; sysvinit, openrc-init, runit and s6 all know it.
        InitKind::Other => Some(Signal::INT),
    };
    let signal = signal.filter(|signal| listens_to(*signal));
    signal.is_some_and(|signal| kill_process(Pid::INIT, signal).is_ok())
}

/// Whether PID 1 has a handler for `signal`, or blocks it to read it from a descriptor; the kernel drops all others that
/// are sent to it (proc(5)).
fn listens_to(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/1/status").unwrap_or_default();
    let masks = status.lines().filter_map(|line| {
        let mask = line.strip_prefix("SigCgt:").or_else(|| line.strip_prefix("SigBlk:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    });
    masks.fold(0, |all, mask| all | mask) >> (signal.as_raw() - 1) & 1 == 1
}
