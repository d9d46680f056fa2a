//! Markers of VMs' processes: an environment variable that the daemon sets, with a random number. By it the daemon finds
//! a process whose pid is in no journal. A process is never found by its program or arguments, which any program of
//! the user can have.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use banger_api::Id;
use rustix::process::getuid;

use super::process::{LiveProcess, open};
use crate::{error::EngineError, layout::VmDir, random::random};

/// The environment variable.
pub(super) const VARIABLE: &str = "BANGER_PROCESS";

/// Returns a marker for a new process of the VM in `dir`: the directory and a random number.
pub(super) fn new_marker(dir: &VmDir) -> String {
    let number = u128::from_be_bytes(random());
    format!("{}#{number:032x}", dir.path().display())
}

/// Returns the live processes with this marker.
pub(super) fn find(marker: &str) -> Result<Vec<LiveProcess>, EngineError> {
    let found = own_processes().filter(|(_, found)| found == marker);
    found.filter_map(|(pid, marker)| open_marked(pid, &marker).transpose()).collect()
}

/// Returns the live processes of VMs whose directories are in `dir`.
pub(crate) fn processes_of(dir: &Path) -> Result<Vec<(LiveProcess, Id)>, EngineError> {
    let found = own_processes().filter_map(|(pid, marker)| {
        let (vm_dir, _) = marker.rsplit_once('#')?;
        let id = Path::new(vm_dir).strip_prefix(dir).ok()?.to_str()?.parse().ok()?;
        Some(open_marked(pid, &marker).transpose()?.map(|process| (process, id)))
    });
    found.collect()
}

/// Opens process `pid`, unless it has ended and the pid belongs to another process.
fn open_marked(pid: u32, marker: &str) -> Result<Option<LiveProcess>, EngineError> {
    let process = open(pid)?;
    // Checked after the open, so that the pid cannot be reused in between.
    Ok(process.filter(|_| marker_of(pid).as_deref() == Some(marker)))
}

/// Returns pid and marker of this user's marked processes.
fn own_processes() -> impl Iterator<Item = (u32, String)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let own = pids.filter(|pid: &u32| {
        fs::metadata(format!("/proc/{pid}")).is_ok_and(|meta| meta.uid() == getuid().as_raw())
    });
    own.filter_map(|pid| Some((pid, marker_of(pid)?)))
}

/// Returns the marker in the environment that process `pid` was started with.
fn marker_of(pid: u32) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let mut variables = environment.split(|byte| *byte == 0);
    let marker =
        variables.find_map(|variable| variable.strip_prefix(VARIABLE.as_bytes())?.strip_prefix(b"="))?;
    String::from_utf8(marker.to_owned()).ok()
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
        let found: Vec<_> = find(&marker).unwrap().iter().map(|process| process.pid).collect();
        let mut all: Vec<_> =
            processes_of(vms.path()).unwrap().into_iter().map(|(process, id)| (process.pid, id)).collect();
        all.sort();
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(found, pids[..1]);
        assert_eq!(all, [(pids[0], id.clone()), (pids[1], id)]);
    }
}
