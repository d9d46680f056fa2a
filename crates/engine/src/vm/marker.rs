//! Markers of VMs' processes: an environment variable that the daemon sets, with a random number. By it the daemon finds
//! a process whose pid is in no journal. A process is never found by its program or arguments, which any program of
//! the user can have.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, Instant},
};

use banger_api::Id;
use rustix::process::getuid;

use super::process::{self, LiveProcess, open};
use crate::{error::EngineError, layout::VmDir, random::random};

/// The environment variable.
pub(super) const VARIABLE: &str = "BANGER_PROCESS";

/// Timeout for a process to replace its program: the kernel reads the new one's first pages.
const EXEC_TIMEOUT: Duration = Duration::from_secs(10);

/// Fields of `/proc/pid/stat`: addresses of the environment.
const ENVIRONMENT_START: usize = 50;
const ENVIRONMENT_END: usize = 51;

/// Returns a marker for a new process of the VM in `dir`: the directory and a random number.
pub(super) fn new_marker(dir: &VmDir) -> String {
    let number = u128::from_be_bytes(random());
    format!("{}#{number:032x}", dir.path().display())
}

/// Kills the processes with this marker, and those that they start meanwhile.
pub(super) async fn kill(marker: &str) -> Result<(), EngineError> {
    loop {
        let found = find(|found| (found == marker).then_some(()))?;
        if found.is_empty() {
            return Ok(());
        }
        for (process, ()) in found {
            process.kill().await?;
        }
    }
}

/// Returns the live processes of VMs whose directories are in `dir`.
pub(crate) fn processes_of(dir: &Path) -> Result<Vec<(LiveProcess, Id)>, EngineError> {
    let vm = |marker: &str| {
        let (vm_dir, _) = marker.rsplit_once('#')?;
        Path::new(vm_dir).strip_prefix(dir).ok()?.to_str()?.parse().ok()
    };
    find(vm)
}

/// Returns this user's live processes with a marker for which `wanted` returns a value, with that value.
fn find<T>(wanted: impl Fn(&str) -> Option<T>) -> Result<Vec<(LiveProcess, T)>, EngineError> {
    let value = |pid| marker_of(pid).as_deref().and_then(&wanted);
    let mut found = Vec::new();
    for pid in own_processes().filter(|pid| value(*pid).is_some()) {
        let Some(process) = open(pid)? else { continue };
        // Read again: while the pidfd is open, the pid cannot be reused.
        if let Some(value) = value(pid) {
            found.push((process, value));
        }
    }
    Ok(found)
}

/// Returns the pids of this user's processes.
fn own_processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        fs::metadata(format!("/proc/{pid}")).is_ok_and(|meta| meta.uid() == getuid().as_raw())
    })
}

/// Returns the marker in the environment that process `pid` was started with. Waits while the process replaces its
/// program: it has no environment then.
fn marker_of(pid: u32) -> Option<String> {
    let began = Instant::now();
    loop {
        let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
        if !environment.is_empty() {
            return marker_in(&environment);
        }
        if has_no_environment(pid) {
            return None;
        }
        if began.elapsed() > EXEC_TIMEOUT {
            tracing::warn!(pid, "a process does not finish its execve, so its environment is unknown");
            return None;
        }
        // The kernel reports no event.
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn marker_in(environment: &[u8]) -> Option<String> {
    let mut variables = environment.split(|byte| *byte == 0);
    let marker =
        variables.find_map(|variable| variable.strip_prefix(VARIABLE.as_bytes())?.strip_prefix(b"="))?;
    String::from_utf8(marker.to_owned()).ok()
}

/// Returns whether the environment of process `pid` is empty for good. In execve(2) its end is 0.
fn has_no_environment(pid: u32) -> bool {
    // Fails for a process without memory (a zombie, a kernel thread), and for a process that may not be inspected.
    let has_memory = fs::read_link(format!("/proc/{pid}/exe")).is_ok();
    let [start, end] = [ENVIRONMENT_START, ENVIRONMENT_END].map(|field| process::stat_field(pid, field));
    !has_memory || (start == end && end != Some(0))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn start(marker: &str) -> Child {
        Command::new("/bin/sleep").arg("1000").env(VARIABLE, marker).spawn().unwrap()
    }

    #[tokio::test]
    async fn processes_are_found_by_their_whole_marker() {
        let vms = tempfile::tempdir().unwrap();
        let id = Id::from_random([7; 8]);
        let dir = VmDir::from_path(vms.path().join(id.as_str()));
        let (marker, other) = (new_marker(&dir), new_marker(&dir));
        assert_ne!(marker, other);
        let mut children =
            [start(&marker), start(&other), start(&vms.path().join("x#1").display().to_string())];
        let pids: Vec<_> = children.iter().map(Child::id).collect();
        let mut all: Vec<_> = processes_of(vms.path()).unwrap();
        let mut all: Vec<_> = all.drain(..).map(|(process, id)| (process.pid, id)).collect();
        all.sort();
        kill(&marker).await.unwrap();
        let alive = pids.iter().filter(|pid| process::identify(**pid).unwrap().is_some());
        assert_eq!(alive.copied().collect::<Vec<_>>(), pids[1..]);
        for child in &mut children[1..] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(all, [(pids[0], id.clone()), (pids[1], id)]);
    }

    /// A daemon can be killed right after it has started a process, and another one looks for that.
    #[tokio::test]
    async fn a_process_is_found_while_it_replaces_its_program() {
        for _ in 0..300 {
            let mut child = start("marker");
            let marker = marker_of(child.id());
            child.kill().unwrap();
            child.wait().unwrap();
            assert_eq!(marker.as_deref(), Some("marker"));
        }
    }
}
