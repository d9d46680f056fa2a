//! Checks that the store and the host agree: processes, directories and states.

use std::{collections::BTreeSet, fs, iter::successors, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use crate::host::{Host, names_in};

/// A record of the journal with its VM.
#[derive(Debug)]
struct JournalRow {
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
    pub(crate) fn check_consistency(&self) -> Result<()> {
        let store = self.store()?;
        let running = running_vms(&store)?;
        let rows = journal_rows(&store)?;
        for row in &rows {
            ensure!(row.scope == "vm" || row.running, "VM {} is down but holds {}", row.vm, row.resource);
        }
        let distinct: BTreeSet<_> = rows.iter().map(|row| row.resource.to_string()).collect();
        ensure!(distinct.len() == rows.len(), "resources held more than once: {rows:?}");
        for (directory, scope) in [("state/vms", "vm"), ("run/vms", "run")] {
            let rows = rows.iter().filter(|row| row.scope == scope && row.resource["kind"] == "folder");
            let known = rows
                .filter_map(|row| row.resource["path"].as_str())
                .filter_map(|path| Some(Path::new(path).file_name()?.to_string_lossy().into_owned()));
            self.check_only(directory, &known.collect())?;
        }
        ensure!(names_in(&self.path("run/vms"))?.len() == running, "{running} VMs are running");
        for (directory, table) in [("state/images", "images"), ("state/kernels", "kernels")] {
            self.check_only(directory, &self.ids(table)?)?;
        }
        // bangerd caches the KVM verdict in a file.
        self.check_only("run", &["vms", "kvm.json"].map(str::to_owned).into())?;
        self.check_only_processes(&rows)
    }

    /// Checks that no VM exists, and that none has left a file or process.
    pub(crate) fn check_nothing_left(&self) -> Result<()> {
        self.check_consistency()?;
        let vms = texts(&self.store()?, "SELECT name FROM vms")?;
        ensure!(vms.is_empty(), "VMs remain: {vms:?}");
        for directory in ["state/vms", "run/vms"] {
            self.check_only(directory, &BTreeSet::new())?;
        }
        Ok(())
    }

    /// Returns role and pid of the processes in the journal, in the order of their start.
    pub(crate) fn processes_of_vms(&self) -> Result<Vec<(String, u32)>> {
        let processes = journal_rows(&self.store()?)?.into_iter().filter_map(|row| {
            let (role, pid) = (row.resource["role"].as_str()?, row.resource["pid"].as_u64()?);
            Some((role.to_owned(), u32::try_from(pid).ok()?))
        });
        Ok(processes.collect())
    }

    /// Returns the ids in a table of the store.
    pub(crate) fn ids(&self, table: &str) -> Result<BTreeSet<String>> {
        texts(&self.store()?, &format!("SELECT id FROM {table}"))
    }

    /// Checks the file systems of a VM that is down.
    pub(crate) fn check_disks(&self, id: &str) -> Result<()> {
        for name in ["overlay.ext4", "work.ext4"] {
            let disk = self.vm_dir(id).join(name);
            if disk.exists() {
                check_file_system(&disk)?;
            }
        }
        Ok(())
    }

    fn store(&self) -> Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Ok(Connection::open_with_flags(self.path("state/store.db"), flags)?)
    }

    fn check_only(&self, directory: &str, known: &BTreeSet<String>) -> Result<()> {
        let names = names_in(&self.path(directory))?;
        ensure!(names.is_subset(known), "in {directory} without a row: {:?}", names.difference(known));
        Ok(())
    }

    fn check_only_processes(&self, journal_rows: &[JournalRow]) -> Result<()> {
        let known: BTreeSet<_> = journal_rows.iter().filter_map(|row| row.resource["pid"].as_u64()).collect();
        let mut seen = self.processes()?;
        // pasta has started the namespace process, which ends with it. That is what its children are, too, until each has
        // become nft.
        seen.retain(|(pid, line)| {
            let is_namespace = line.split(' ').nth(1) == Some("namespace");
            let mut ancestors = successors(parent(*pid), |pid| parent(*pid)).peekable();
            let has_ended = ancestors.peek().is_none();
            !(is_namespace && (has_ended || ancestors.any(|pid| known.contains(&u64::from(pid)))))
        });
        // A console logger exits by itself soon after its VMM.
        for (pid, _) in
            seen.extract_if(.., |(pid, line)| line.contains(" console ") && !known.contains(&u64::from(*pid)))
        {
            wait_for_exit(pid)?;
        }
        let pids: BTreeSet<_> = seen.iter().map(|(pid, _)| u64::from(*pid)).collect();
        ensure!(pids == known, "the journal has processes {known:?}, the host {seen:?}");
        Ok(())
    }
}

/// Returns the parent of process `pid`.
fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Waits until process `pid` has exited.
fn wait_for_exit(pid: u32) -> Result<()> {
    use rustix::{
        event::{PollFd, PollFlags, Timespec, poll},
        io::retry_on_intr,
        process::{Pid, PidfdFlags, pidfd_open},
    };
    let pid = Pid::from_raw(i32::try_from(pid)?).context("pid 0")?;
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(()) };
    let limit = Timespec { tv_sec: crate::TEST_TIMEOUT.as_secs().cast_signed(), tv_nsec: 0 };
    let ended = retry_on_intr(|| poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit)))?;
    ensure!(ended > 0, "process {} did not exit", pid.as_raw_nonzero());
    Ok(())
}

/// Checks a file system with `e2fsck -fn`.
pub(crate) fn check_file_system(disk: &Path) -> Result<()> {
    let path = "/usr/sbin:/usr/bin:/sbin:/bin";
    let check = Command::new("e2fsck").env("PATH", path).args(["-f", "-n"]).arg(disk).output();
    let check = check.context("e2fsck (package e2fsprogs)")?;
    let output = String::from_utf8_lossy(&check.stdout);
    ensure!(check.status.success(), "{}: e2fsck -fn: {}: {output}", disk.display(), check.status);
    Ok(())
}

/// Counts the running VMs, and rejects states that no VM has while nothing is in progress.
fn running_vms(store: &Connection) -> Result<usize> {
    let states = texts(store, "SELECT name || ' ' || state || ' ' || (handle IS NOT NULL) FROM vms")?;
    let known = [" running 1", " paused 1", " created 0", " stopped 0", " error 0"];
    let is_known = |state: &String| known.iter().any(|known| state.ends_with(known));
    ensure!(states.iter().all(is_known), "inconsistent states: {states:?}");
    Ok(states.iter().filter(|state| state.ends_with('1')).count())
}

fn journal_rows(store: &Connection) -> Result<Vec<JournalRow>> {
    let select = "SELECT vm_id, state IN ('running', 'paused'), scope, resource FROM journal
        JOIN vms ON vms.id = vm_id ORDER BY journal.id";
    let mut select = store.prepare(select)?;
    let rows =
        select.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get::<_, String>(3)?)))?;
    rows.map(|row| {
        let (vm, running, scope, resource) = row?;
        Ok(JournalRow { vm, running, scope, resource: serde_json::from_str(&resource)? })
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
