//! Processes that outlive the daemon: identified by more than their pids, watched through pidfds.

use std::{
    fmt, fs,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    task::Poll,
    time::Duration,
};

use banger_sys::{Watched, signal_of};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal};

use crate::{
    error::EngineError,
    host::boot_id,
    resource::{ProcessId, ProcessRole},
};

/// Timeout for the VMM to exit after its guest has ended. The guest's connections break first.
pub(super) const EXIT_TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout for the console logger to write the rest of its pipe. If it is cut short, a panic goes unnoticed and the VM
/// seems to have powered off.
const CONSOLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Timeout for a killed process to disappear. A process that hangs in the kernel is reported, not awaited.
const KILL_TIMEOUT: Duration = Duration::from_secs(60);

/// Timeout for a process that was asked to end.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// A live process.
#[derive(Debug)]
pub(crate) struct LiveProcess {
    pub(crate) pid: u32,
    pidfd: Watched,
}

/// Exit status of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExitReason {
    /// Exited with this status.
    Exited(i32),
    /// Killed by the signal with this number.
    Killed(i32),
    /// Unknown: the process is a child of an earlier daemon.
    Unknown,
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "exited with status {status}"),
            Self::Killed(signal) => write!(f, "was killed by signal {signal}"),
            Self::Unknown => f.write_str("ended"),
        }
    }
}

/// Exit of a process that its VM needs to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessExit {
    pub(crate) role: ProcessRole,
    pub(crate) reason: ExitReason,
}

impl fmt::Display for ProcessExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.reason)
    }
}

impl ProcessExit {
    /// Returns how likely this exit caused others: a VMM fails without its helper, and a helper exits after its VMM.
    fn cause_rank(self) -> u8 {
        match (self.role, self.reason) {
            (_, ExitReason::Killed(_)) => 3,
            (ProcessRole::Vmm, _) => 1,
            (_, ExitReason::Exited(0) | ExitReason::Unknown) => 0,
            (_, ExitReason::Exited(_)) => 2,
        }
    }
}

/// The live processes of a VM; none while it is down.
#[derive(Debug, Default)]
pub(crate) struct VmProcesses {
    /// Runs the guest.
    pub(crate) vmm: Option<LiveProcess>,
    /// Processes that the VMM needs to run.
    pub(crate) helpers: Vec<(ProcessRole, LiveProcess)>,
    /// Processes of its network, without which it runs on.
    pub(crate) network: Vec<(ProcessRole, LiveProcess)>,
    /// The console logger: it exits by itself, after the VMM.
    pub(crate) console: Option<LiveProcess>,
}

impl VmProcesses {
    /// Adds a process with its role.
    pub(crate) fn add(&mut self, role: ProcessRole, process: LiveProcess) {
        match role {
            ProcessRole::Vmm => self.vmm = Some(process),
            ProcessRole::VsockDevice => self.helpers.push((role, process)),
            ProcessRole::Pasta | ProcessRole::Gateway => self.network.push((role, process)),
            ProcessRole::Console => self.console = Some(process),
        }
    }

    /// Waits until the VMM or a helper exits; for ever if there are none. If several have exited, returns the
    /// process that most likely caused the others to exit.
    pub(crate) async fn first_exit(&self) -> ProcessExit {
        let first = first_exit(self.needed()).await;
        let others = self.needed().filter(|(role, _)| *role != first.role);
        let others =
            others.filter_map(|(role, process)| Some(ProcessExit { role, reason: process.try_wait()? }));
        others.fold(first, |cause, exit| if exit.cause_rank() > cause.cause_rank() { exit } else { cause })
    }

    /// Waits until a process of the network exits; for ever if there are none.
    pub(crate) async fn first_network_exit(&self) -> ProcessExit {
        first_exit(self.network.iter().map(|(role, process)| (*role, process))).await
    }

    /// Returns the processes that the VM needs to run.
    fn needed(&self) -> impl Iterator<Item = (ProcessRole, &LiveProcess)> {
        let helpers = self.helpers.iter().map(|(role, process)| (*role, process));
        helpers.chain(self.vmm.iter().map(|vmm| (ProcessRole::Vmm, vmm)))
    }

    /// Waits until the console log contains everything that the VMM wrote. Kills the VMM first if it still runs,
    /// because the console logger reads until the VMM exits.
    pub(crate) async fn wait_for_console(&self) {
        if let Some(vmm) = &self.vmm
            && let Err(error) = vmm.kill().await
        {
            tracing::warn!(pid = vmm.pid, %error, "the VMM has not ended");
        }
        if let Some(console) = &self.console
            && tokio::time::timeout(CONSOLE_TIMEOUT, console.wait()).await.is_err()
        {
            tracing::warn!(pid = console.pid, "the console logger has not ended");
        }
    }
}

/// Waits until one of the processes exits; for ever if there are none.
async fn first_exit<'a>(processes: impl Iterator<Item = (ProcessRole, &'a LiveProcess)>) -> ProcessExit {
    let mut exits: Vec<_> = processes.map(|(role, process)| (role, Box::pin(process.wait()))).collect();
    std::future::poll_fn(|context| {
        for (role, wait) in &mut exits {
            if let Poll::Ready(reason) = wait.as_mut().poll(context) {
                return Poll::Ready(ProcessExit { role: *role, reason });
            }
        }
        Poll::Pending
    })
    .await
}

/// Returns the identity of process `pid`, or `None` if there is no such process.
pub(crate) fn identify(pid: u32) -> Result<Option<ProcessId>, EngineError> {
    let boot_id = Some(boot_id()?);
    Ok(start_time(pid).map(|started| ProcessId { pid, started, boot_id, executable: executable(pid) }))
}

/// Returns the start time of process `pid` in clock ticks since boot (`/proc/pid/stat`, field 22).
fn start_time(pid: u32) -> Option<u64> {
    stat_field(pid, 22)
}

/// Returns field `number` of `/proc/pid/stat`, counted from 1 as in proc_pid_stat(5); not the first two.
pub(super) fn stat_field(pid: u32, number: usize) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may contain any character.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

/// Returns the device and inode of the file that process `pid` runs, also after the file was replaced. `None` if the
/// process has ended and was not waited for yet.
fn executable(pid: u32) -> Option<(u64, u64)> {
    fs::metadata(format!("/proc/{pid}/exe")).ok().map(|file| (file.dev(), file.ino()))
}

/// Opens the process with this identity. Returns `None` if it has ended.
pub(crate) fn adopt(id: &ProcessId) -> Result<Option<LiveProcess>, EngineError> {
    let Some(process) = open(id.pid)? else { return Ok(None) };
    // Checked after the open: while the pidfd is open and the identity matches, the pid cannot be reused.
    let is_same = identify(id.pid)?.is_some_and(|current| {
        let same_boot = id.boot_id.is_none() || id.boot_id == current.boot_id;
        let executables = id.executable.zip(current.executable);
        current.started == id.started && same_boot && executables.is_none_or(|(then, now)| then == now)
    });
    Ok(is_same.then_some(process))
}

/// Opens process `pid`. Returns `None` if there is none.
pub(crate) fn open(pid: u32) -> Result<Option<LiveProcess>, EngineError> {
    let failed = |source| EngineError::File { action: "watch", path: format!("/proc/{pid}").into(), source };
    let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
    let pidfd = match pidfd_open(raw, PidfdFlags::NONBLOCK) {
        Ok(pidfd) => pidfd,
        Err(rustix::io::Errno::SRCH) => return Ok(None),
        Err(error) => return Err(failed(error.into())),
    };
    let pidfd = Watched::new(pidfd).map_err(failed)?;
    Ok(Some(LiveProcess { pid, pidfd }))
}

impl LiveProcess {
    /// Waits until the process has ended, and returns its exit status.
    pub(crate) async fn wait(&self) -> ExitReason {
        match self.pidfd.readable().await {
            Ok(mut ready) => ready.retain_ready(),
            // The only possible error is that the reactor is shutting down.
            Err(_) => return ExitReason::Unknown,
        }
        self.exit_reason().ok().flatten().unwrap_or(ExitReason::Unknown)
    }

    /// Returns a copy of the process's pidfd.
    pub(super) fn pidfd(&self) -> Result<OwnedFd, EngineError> {
        let copy = self.pidfd.as_fd().try_clone_to_owned();
        copy.map_err(EngineError::file("watch", format!("/proc/{}", self.pid)))
    }

    /// Returns the exit status, if the process has ended and the status is known.
    fn try_wait(&self) -> Option<ExitReason> {
        self.exit_reason().ok()?
    }

    /// Returns the exit status of a child of this process, or an error for any other process.
    fn exit_reason(&self) -> rustix::io::Result<Option<ExitReason>> {
        let status = rustix::process::waitid(
            WaitId::PidFd(self.pidfd.as_fd()),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        )?;
        let Some(status) = status else { return Ok(None) };
        Ok(match (status.exit_status(), status.terminating_signal()) {
            (Some(status), _) => Some(ExitReason::Exited(status)),
            (_, Some(signal)) => Some(ExitReason::Killed(signal)),
            _ => None,
        })
    }

    /// Sends a signal by its Linux number. Does nothing if the process has ended.
    pub(crate) fn signal(&self, number: i32) -> Result<(), EngineError> {
        let sent = match signal_of(number) {
            Some(signal) => pidfd_send_signal(&self.pidfd, signal),
            None => Err(rustix::io::Errno::INVAL),
        };
        match sent {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(EngineError::File {
                action: "signal",
                path: format!("/proc/{}", self.pid).into(),
                source: error.into(),
            }),
        }
    }

    /// Asks the process to end, and kills it if it does not soon.
    pub(crate) async fn end(&self) -> Result<(), EngineError> {
        self.signal(Signal::TERM.as_raw())?;
        match tokio::time::timeout(END_TIMEOUT, self.wait()).await {
            Ok(_) => Ok(()),
            Err(_) => self.kill().await,
        }
    }

    /// Kills the process and waits until it has ended.
    pub(crate) async fn kill(&self) -> Result<(), EngineError> {
        let failed =
            |source| EngineError::File { action: "kill", path: format!("/proc/{}", self.pid).into(), source };
        self.signal(Signal::KILL.as_raw())?;
        match tokio::time::timeout(KILL_TIMEOUT, self.wait()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(failed(std::io::ErrorKind::TimedOut.into())),
        }
    }
}

#[cfg(test)]
#[allow(clippy::zombie_processes)] // children are waited for through their pidfds
mod tests {
    use super::*;
    use std::{
        io::Read,
        process::{Command, Stdio},
    };

    #[tokio::test]
    async fn only_a_live_process_with_the_same_identity_is_adopted() {
        let child = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        let id = identify(child.id()).unwrap().unwrap();
        for other in [
            ProcessId { started: id.started + 1, ..id.clone() },
            ProcessId { boot_id: Some("other".to_owned()), ..id.clone() },
            ProcessId { executable: Some((1, 2)), ..id.clone() },
        ] {
            assert!(adopt(&other).unwrap().is_none(), "{other:?}");
        }
        let of_an_earlier_build = ProcessId { boot_id: None, executable: None, ..id.clone() };
        assert!(adopt(&of_an_earlier_build).unwrap().is_some());
        adopt(&id).unwrap().unwrap().kill().await.unwrap();
        assert!(adopt(&id).unwrap().is_none());
    }

    #[tokio::test]
    async fn a_process_may_finish_its_work_before_it_ends() {
        for (on_term, last) in [("sleep 0.1; echo last; exit", "last\n"), ("", "")] {
            let script = format!("trap '{on_term}' TERM; echo ready; while :; do sleep 0.1; done");
            let mut child =
                Command::new("/bin/sh").args(["-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
            let process = open(child.id()).unwrap().unwrap();
            let mut output = child.stdout.take().unwrap();
            // The trap is set.
            output.read_exact(&mut [0; "ready\n".len()]).unwrap();
            process.end().await.unwrap();
            let mut rest = String::new();
            output.read_to_string(&mut rest).unwrap();
            assert_eq!(rest, last);
        }
    }

    #[tokio::test]
    async fn wait_returns_the_exit_status_of_a_child() {
        let child = Command::new("/bin/sh").args(["-c", "exit 3"]).spawn().unwrap();
        let process = open(child.id()).unwrap().unwrap();
        assert_eq!(process.wait().await, ExitReason::Exited(3));
    }

    #[test]
    fn a_causing_exit_ranks_above_its_consequence() {
        use ExitReason::{Exited, Killed, Unknown};
        use ProcessRole::{Vmm, VsockDevice};
        // A cause and its consequence.
        for (cause, consequence) in [
            ((VsockDevice, Killed(9)), (Vmm, Exited(1))),
            ((VsockDevice, Exited(1)), (Vmm, Exited(1))),
            ((Vmm, Killed(9)), (VsockDevice, Exited(0))),
            ((Vmm, Exited(0)), (VsockDevice, Exited(0))),
            ((Vmm, Unknown), (VsockDevice, Unknown)),
        ] {
            let [cause, consequence] =
                [cause, consequence].map(|(role, reason)| ProcessExit { role, reason });
            assert!(cause.cause_rank() > consequence.cause_rank(), "{cause}, {consequence}");
        }
    }
}
