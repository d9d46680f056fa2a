//! Checks that the store and the host agree: processes, directories and states.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use crate::host::{Host, names_in};

/// A record of the journal with its VM.
#[derive(Debug)]
struct Held {
    vm: String,
    running: bool,
    scope: String,
    resource: Value,
}

impl Host {
    /// Checks that the store and the host agree.
    ///
    /// No VM is between two states, VMs that are down hold nothing in the journal except their disks, and every
    /// process and directory of the host has a record.
    pub(crate) fn agrees(&self) -> Result<()> {
        let store = self.store()?;
        let running = settled_vms(&store)?;
        let held = held(&store)?;
        for row in &held {
            ensure!(row.scope == "vm" || row.running, "VM {} is down and holds {}", row.vm, row.resource);
        }
        let once: BTreeSet<_> = held.iter().map(|row| row.resource.to_string()).collect();
        ensure!(once.len() == held.len(), "held more than once: {held:?}");
        for (directory, scope) in [("state/vms", "vm"), ("run/vms", "run")] {
            let rows = held.iter().filter(|row| row.scope == scope && row.resource["kind"] == "folder");
            let known = rows
                .filter_map(|row| row.resource["path"].as_str())
                .filter_map(|path| Some(Path::new(path).file_name()?.to_string_lossy().into_owned()));
            self.has_only(directory, &known.collect())?;
        }
        ensure!(names_in(&self.path("run/vms"))?.len() == running, "{running} VMs run");
        for (directory, table) in [("state/images", "images"), ("state/kernels", "kernels")] {
            self.has_only(directory, &texts(&store, &format!("SELECT id FROM {table}"))?)?;
        }
        // bangerd caches the KVM verdict in a file.
        self.has_only("run", &["vms", "kvm.json"].map(str::to_owned).into())?;
        self.has_only_processes(&held)
    }

    /// Checks that no VM exists, and that none has left a file or process.
    pub(crate) fn nothing_left(&self) -> Result<()> {
        self.agrees()?;
        let vms = texts(&self.store()?, "SELECT name FROM vms")?;
        ensure!(vms.is_empty(), "VMs are left: {vms:?}");
        for directory in ["state/vms", "run/vms"] {
            self.has_only(directory, &BTreeSet::new())?;
        }
        Ok(())
    }

    /// Returns role and pid of the processes in the journal, in the order of their start.
    pub(crate) fn processes_of_vms(&self) -> Result<Vec<(String, u32)>> {
        let processes = held(&self.store()?)?.into_iter().filter_map(|row| {
            let (role, pid) = (row.resource["role"].as_str()?, row.resource["pid"].as_u64()?);
            Some((role.to_owned(), u32::try_from(pid).ok()?))
        });
        Ok(processes.collect())
    }

    /// Checks the file systems of a VM that is down.
    pub(crate) fn disks_are_clean(&self, id: &str) -> Result<()> {
        for name in ["overlay.ext4", "work.ext4"] {
            let disk = self.vm_dir(id).join(name);
            if disk.exists() {
                is_clean(&disk)?;
            }
        }
        Ok(())
    }

    fn store(&self) -> Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Ok(Connection::open_with_flags(self.path("state/store.db"), flags)?)
    }

    fn has_only(&self, directory: &str, known: &BTreeSet<String>) -> Result<()> {
        let there = names_in(&self.path(directory))?;
        ensure!(there.is_subset(known), "in {directory} and in no row: {:?}", there.difference(known));
        Ok(())
    }

    fn has_only_processes(&self, held: &[Held]) -> Result<()> {
        let known: BTreeSet<_> = held.iter().filter_map(|row| row.resource["pid"].as_u64()).collect();
        let mut seen = self.processes()?;
        // A log keeper exits by itself soon after its VMM.
        for (pid, _) in
            seen.extract_if(.., |(pid, line)| line.contains(" console ") && !known.contains(&u64::from(*pid)))
        {
            ends(pid)?;
        }
        let pids: BTreeSet<_> = seen.iter().map(|(pid, _)| u64::from(*pid)).collect();
        ensure!(pids == known, "the journal has processes {known:?}, the host {seen:?}");
        Ok(())
    }
}

/// Waits until process `pid` has exited.
fn ends(pid: u32) -> Result<()> {
    use rustix::{
        event::{PollFd, PollFlags, Timespec, poll},
        io::retry_on_intr,
        process::{Pid, PidfdFlags, pidfd_open},
    };
    let pid = Pid::from_raw(i32::try_from(pid)?).context("pid 0")?;
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(()) };
    let limit = Timespec { tv_sec: crate::HANGING.as_secs().cast_signed(), tv_nsec: 0 };
    let ended = retry_on_intr(|| poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit)))?;
    ensure!(ended > 0, "process {} does not end", pid.as_raw_nonzero());
    Ok(())
}

/// Checks a file system with `e2fsck -fn`.
pub(crate) fn is_clean(disk: &Path) -> Result<()> {
    let path = "/usr/sbin:/usr/bin:/sbin:/bin";
    let check = Command::new("e2fsck").env("PATH", path).args(["-f", "-n"]).arg(disk).output();
    let check = check.context("e2fsck (package e2fsprogs)")?;
    let said = String::from_utf8_lossy(&check.stdout);
    ensure!(check.status.success(), "{}: e2fsck -fn: {}: {said}", disk.display(), check.status);
    Ok(())
}

/// Counts the running VMs, and rejects states that no VM has while nothing is in progress.
fn settled_vms(store: &Connection) -> Result<usize> {
    let states = texts(store, "SELECT name || ' ' || state || ' ' || (handle IS NOT NULL) FROM vms")?;
    let known = [" running 1", " paused 1", " created 0", " stopped 0", " error 0"];
    let is_known = |state: &String| known.iter().any(|known| state.ends_with(known));
    ensure!(states.iter().all(is_known), "inconsistent states: {states:?}");
    Ok(states.iter().filter(|state| state.ends_with('1')).count())
}

fn held(store: &Connection) -> Result<Vec<Held>> {
    let select = "SELECT vm_id, state IN ('running', 'paused'), scope, resource FROM journal
        JOIN vms ON vms.id = vm_id ORDER BY journal.id";
    let mut select = store.prepare(select)?;
    let rows =
        select.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get::<_, String>(3)?)))?;
    rows.map(|row| {
        let (vm, running, scope, resource) = row?;
        Ok(Held { vm, running, scope, resource: serde_json::from_str(&resource)? })
    })
    .collect()
}

fn texts(store: &Connection, select: &str) -> Result<BTreeSet<String>> {
    let mut select = store.prepare(select)?;
    let rows = select.query_map([], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Returns how often a VM was booted with its current work disk; 0 without a disk.
pub(crate) fn boots(host: &Host, id: &str) -> Result<u32> {
    let mut number = [0; 4];
    let file = match fs::File::open(host.vm_dir(id).join("work.ext4")) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error.into()),
    };
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut number, 0)?;
    Ok(u32::from_le_bytes(number))
}
