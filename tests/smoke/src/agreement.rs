//! Checks that the store and the host agree.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use crate::{Host, host::names_in, run::until};

/// Entries of the runtime directory that belong to the daemon.
const DAEMON_ENTRIES: [&str; 4] = ["bangerd.sock", "kvm.json", "kvm.partial", "vms"];

/// A row of the journal, with its VM.
struct JournalRow {
    vm: String,
    running: bool,
    scope: String,
    resource: Value,
}

impl Host {
    /// Checks that no VM is between two states, that the journal has exactly this host's processes and no run-time
    /// resource of a stopped VM, that the store knows every directory, and that the host has no mount or loop device.
    ///
    /// # Errors
    /// Returns an error if they do not agree.
    pub fn agrees(&self) -> Result<()> {
        let daemon = self.daemon_pid()?;
        let store = self.store()?;
        let running = self.settled_vms(&store)?;
        let journal = journal(&store)?;
        for row in &journal {
            ensure!(row.scope == "vm" || row.running, "stopped VM {} holds {}", row.vm, row.resource);
        }
        let distinct: BTreeSet<_> = journal.iter().map(|row| row.resource.to_string()).collect();
        ensure!(
            distinct.len() == journal.len(),
            "held more than once: {distinct:?} of {} rows",
            journal.len()
        );
        for (dir, scope) in [("state/banger/vms", "vm"), ("state/banger/run/vms", "run")] {
            let rows = journal.iter().filter(|row| row.scope == scope && row.resource["kind"] == "folder");
            let known = rows.filter_map(|row| row.resource["path"].as_str()).map(PathBuf::from).collect();
            self.has_only(dir, &known)?;
        }
        ensure!(names_in(&self.path("state/banger/run/vms"))?.len() == running, "{running} VMs are running");
        for (dir, table) in [("state/banger/images", "images"), ("state/banger/kernels", "kernels")] {
            let ids = query_strings(&store, &format!("SELECT id FROM {table}"))?;
            self.has_only(dir, &ids.iter().map(|id| self.path(dir).join(id)).collect())?;
        }
        let runtime = DAEMON_ENTRIES.map(|name| self.path("state/banger/run").join(name)).into();
        self.has_only("state/banger/run", &runtime)?;
        self.has_only_processes(daemon, &journal)?;
        self.holds_no_device()
    }

    /// Checks the file systems of a stopped VM as its next start would find them: after replaying their journals.
    ///
    /// # Errors
    /// Returns an error if `e2fsck` finds a problem or cannot be run.
    pub fn disks_are_clean(&self, vm: &str) -> Result<()> {
        let id = self.json(&["vm", "show", vm])?["id"].as_str().context("no id")?.to_owned();
        for name in ["overlay.ext4", "work.ext4"] {
            let disk = self.path("state/banger/vms").join(&id).join(name);
            if !disk.exists() {
                continue;
            }
            let copy = self.path(name);
            run(Command::new("cp").arg("--sparse=always").args([&disk, &copy]))?;
            // Exit code 1: e2fsck has replayed the journal.
            let replay = e2fsck(&["-y", "-E", "journal_only"], &copy)?;
            ensure!(matches!(replay, 0 | 1), "VM {vm}: the journal of {name}: e2fsck exited with {replay}");
            let check = e2fsck(&["-f", "-n"], &copy)?;
            ensure!(check == 0, "VM {vm}: {name} is damaged: e2fsck -fn exited with {check}");
            fs::remove_file(&copy)?;
        }
        Ok(())
    }

    /// Returns the role and pid of each process of running VMs, from the journal, in the order of their start.
    ///
    /// # Errors
    /// Returns an error if the store cannot be read.
    pub fn vm_processes(&self) -> Result<Vec<(String, i32)>> {
        let rows = journal(&self.store()?)?.into_iter();
        let processes = rows.filter_map(|row| {
            let (role, pid) = (row.resource["role"].as_str()?, row.resource["pid"].as_i64()?);
            Some((role.to_owned(), i32::try_from(pid).ok()?))
        });
        Ok(processes.collect())
    }

    fn store(&self) -> Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Ok(Connection::open_with_flags(self.path("state/banger/store.db"), flags)?)
    }

    /// Returns the number of running or paused VMs. All others must be down, as no operation is in progress.
    fn settled_vms(&self, store: &Connection) -> Result<usize> {
        let states = query_strings(store, "SELECT state || ' ' || (handle IS NOT NULL) FROM vms")?;
        let known = ["running 1", "paused 1", "created 0", "stopped 0", "error 0"];
        ensure!(states.iter().all(|state| known.contains(&state.as_str())), "unexpected states: {states:?}");
        Ok(states.iter().filter(|state| state.ends_with('1')).count())
    }

    fn has_only(&self, dir: &str, known: &BTreeSet<PathBuf>) -> Result<()> {
        let dir = self.path(dir);
        let existing = names_in(&dir)?.into_iter().map(|name| dir.join(name)).collect::<BTreeSet<_>>();
        ensure!(existing.is_subset(known), "not in the store: {:?}", existing.difference(known));
        Ok(())
    }

    fn has_only_processes(&self, daemon: i32, journal: &[JournalRow]) -> Result<()> {
        let known: BTreeSet<i64> = journal.iter().filter_map(|row| row.resource["pid"].as_i64()).collect();
        let mut seen = Vec::new();
        // The daemon's KVM probe exits by itself, and so does the console process of a VMM that has exited.
        let agree = until("the journal lists exactly the running processes", || {
            seen = self.processes()?;
            // pasta has started the namespace process, which ends with it.
            seen.retain(|(pid, line)| {
                let is_namespace = line.split(' ').nth(1) == Some("namespace");
                !(is_namespace && parent(*pid).is_some_and(|parent| known.contains(&parent)))
            });
            let pids = seen.iter().map(|(pid, _)| *pid).filter(|pid| *pid != daemon);
            Ok(pids.map(i64::from).collect::<BTreeSet<_>>() == known)
        });
        agree.with_context(|| format!("journal: {known:?}; daemon: {daemon}; processes: {seen:?}"))
    }

    fn holds_no_device(&self) -> Result<()> {
        let dir = self.path("").display().to_string();
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        ensure!(!mounts.contains(&dir), "mounted: {mounts}");
        for device in fs::read_dir("/sys/block").into_iter().flatten() {
            let file = fs::read_to_string(device?.path().join("loop/backing_file")).unwrap_or_default();
            ensure!(!file.contains(&dir), "a loop device uses {file}");
        }
        Ok(())
    }
}

/// Returns the parent of process `pid`.
fn parent(pid: i32) -> Option<i64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn journal(store: &Connection) -> Result<Vec<JournalRow>> {
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

fn query_strings(store: &Connection, select: &str) -> Result<Vec<String>> {
    let mut select = store.prepare(select)?;
    let rows = select.query_map([], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status()?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

fn e2fsck(options: &[&str], disk: &Path) -> Result<i32> {
    let path = "/usr/sbin:/usr/bin:/sbin:/bin";
    let output = Command::new("e2fsck").env("PATH", path).args(options).arg(disk).output()?;
    output.status.code().context("e2fsck was killed")
}
