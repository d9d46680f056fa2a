//! Which processes the daemon ends: only its own, by more than a pid or an argument.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command as Process, Stdio},
};

use anyhow::{Context, Result, ensure};
use banger_api::Vmm;
use libtest_mimic::Trial;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::{driver::Command, host::Host, trial};

/// A VM that is in no store.
const UNKNOWN: &str = "0123456789abcdef";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("processes::other_programs_survive_a_repair", || other_programs_survive(true)),
        trial("processes::other_programs_survive_a_start", || other_programs_survive(false)),
        trial("processes::a_repair_ends_vms_that_the_store_does_not_have", a_repair_ends_unknown_vms),
    ]
}

/// A user's program. Dropping it ends it.
struct Innocent(Child);

impl Innocent {
    /// Starts a shell that waits, with a path in its arguments.
    fn start(path: PathBuf) -> Result<Self> {
        let mut shell = Process::new(shell()?);
        Ok(Self(shell.args(["-c", "read line", "sh"]).arg(path).stdin(Stdio::piped()).spawn()?))
    }

    /// Returns the pid and the start time.
    fn pid_and_start(&self) -> Result<(u32, u64)> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
        let (_, rest) = stat.rsplit_once(')').context("stat")?;
        Ok((self.0.id(), rest.split_whitespace().nth(19).context("stat")?.parse()?))
    }
}

impl Drop for Innocent {
    fn drop(&mut self) {
        // It may have been killed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn shell() -> Result<PathBuf> {
    Ok(fs::canonicalize("/bin/sh")?)
}

/// A process of a VM, as in the journal.
fn process(fields: &Value) -> Value {
    let mut process = json!({ "kind": "process", "role": "VMM", "marker": "" });
    if let (Some(process), Some(fields)) = (process.as_object_mut(), fields.as_object()) {
        process.extend(fields.clone());
    }
    process
}

/// Programs whose arguments name a VM's directory, and programs whose pids were those of a VM's processes.
fn other_programs_survive(repair: bool) -> Result<()> {
    let mut host = Host::new()?;
    let created = host.send_ok(Command::CreateVm {
        name: "box".to_owned(),
        image: "tiny".to_owned(),
        vmm: Vmm::Firecracker,
        start: true,
    })?;
    let id = created["id"].as_str().context("id")?;
    host.send_ok(Command::StopVm("box".to_owned()))?;
    let named = host.vm_dir(id).join("work.ext4");
    let mut innocents = vec![Innocent::start(host.vm_dir(UNKNOWN).join("work.ext4"))?];
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let program = shell()?;
    let store = Connection::open(host.path("state/store.db"))?;
    for number in 0..4 {
        let innocent = Innocent::start(named.clone())?;
        let (pid, started) = innocent.pid_and_start()?;
        let boot_id = boot_id.trim_end();
        let row = match number {
            // A daemon was killed before it knew the pid.
            0 => json!({ "program": program, "marker": id, "pid": null, "started": null }),
            // Of another boot, of another program, and started at another time.
            1 => json!({ "program": program, "pid": pid, "started": started, "boot_id": "other" }),
            2 => {
                json!({ "program": program, "pid": pid, "started": started, "boot_id": boot_id, "executable": [1, 2] })
            }
            _ => json!({ "program": program, "pid": pid, "started": started + 1, "boot_id": boot_id }),
        };
        let insert = "INSERT INTO journal (vm_id, scope, resource) VALUES (?1, 'run', ?2)";
        store.execute(insert, (id, process(&row).to_string()))?;
        innocents.push(innocent);
    }
    let rows = || -> Result<u32> {
        Ok(store.query_row("SELECT count(*) FROM journal WHERE scope = 'run'", [], |row| row.get(0))?)
    };
    ensure!(rows()? == 4);
    if repair {
        host.send_ok(Command::Repair)?;
    } else {
        host.kill_daemon()?;
        host.send_ok(Command::Idle)?;
    }
    ensure!(rows()? == 0, "the processes are still in the journal");
    for (number, innocent) in innocents.iter_mut().enumerate() {
        ensure!(innocent.0.try_wait()?.is_none(), "program {number} was killed");
    }
    drop(innocents);
    host.check_consistency()
}

/// A VM whose store was moved away still runs, and no command can reach it.
fn a_repair_ends_unknown_vms() -> Result<()> {
    let mut host = Host::new()?;
    for name in ["known", "unknown"] {
        let (name, image) = (name.to_owned(), "tiny".to_owned());
        host.send_ok(Command::CreateVm { name, image, vmm: Vmm::Qemu, start: true })?;
    }
    host.kill_daemon()?;
    let store = Connection::open(host.path("state/store.db"))?;
    store.execute_batch(
        "DELETE FROM journal WHERE vm_id = (SELECT id FROM vms WHERE name = 'unknown');
        DELETE FROM vms WHERE name = 'unknown';",
    )?;
    let problems = host.send_ok(Command::Repair)?.to_string();
    ensure!(problems.contains("which is not in the store"), "{problems}");
    let problems = host.send_ok(Command::Repair)?.to_string();
    ensure!(!problems.contains("which is not in the store"), "{problems}");
    host.check_consistency()?;
    host.send_ok(Command::Exec { vm: "known".to_owned(), argv: vec!["true".to_owned()] }).map(drop)
}
