//! Many VMs, in sequence and in parallel: the daemon's resource usage is the same before and after.

use std::{
    fs,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use anyhow::{Context, Result, ensure};
use banger_smoke::{Host, scenario, until};

/// Number of VMs at a time.
const PARALLEL_VMS: u32 = 4;

/// Number of VMs in all; tests of `banger-engine` create a hundred without real VMs.
const VMS: u32 = 12;

/// Number of VMs after which the daemon's memory is stable.
const WARM_UP_VMS: u32 = PARALLEL_VMS;

/// Maximum growth of the daemon after the warm-up, in KiB. The allocator keeps freed memory for each of its threads.
const MAX_GROWTH_KIB: i64 = 3 << 9;

/// Maximum number of additional threads: those for blocking work exit after ten idle seconds. Descriptors must not
/// grow.
const MAX_NEW_THREADS: i64 = 8;

/// Resource usage of a process.
#[derive(Debug, Clone, Copy)]
struct Usage {
    resident_kib: i64,
    descriptors: i64,
    threads: i64,
}

impl Usage {
    fn of(pid: i32) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let number = |key: &str| -> Result<i64> {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).context("no such line")?;
            Ok(line.split_whitespace().next().context("no number")?.parse()?)
        };
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        Ok(Self {
            resident_kib: number("VmRSS:")?,
            descriptors: i64::try_from(descriptors)?,
            threads: number("Threads:")?,
        })
    }
}

#[scenario(Here, LabMore, Slow)]
fn the_daemons_resource_usage_does_not_grow_with_past_vms() -> Result<()> {
    let host = Host::tiny()?;
    host.ok(&["ps"])?;
    let pid = host.daemon_pid()?;
    create_and_delete(&host, WARM_UP_VMS)?;
    let before = Usage::of(pid)?;
    create_and_delete(&host, VMS - WARM_UP_VMS)?;
    let after = Usage::of(pid)?;
    eprintln!(
        "{VMS} VMs, {PARALLEL_VMS} at a time: after {WARM_UP_VMS} bangerd used {before:?}, at the end {after:?}"
    );
    ensure!(host.daemon_pid()? == pid, "bangerd was restarted");
    host.nothing_left()?;
    host.agrees()?;
    ensure!(after.resident_kib - before.resident_kib <= MAX_GROWTH_KIB, "memory: {before:?}, {after:?}");
    // bangerd may still be closing the last client's connection.
    until("bangerd has as few descriptors as before", || {
        Ok(Usage::of(pid)?.descriptors <= before.descriptors)
    })?;
    ensure!(after.threads - before.threads <= MAX_NEW_THREADS, "threads: {before:?}, {after:?}");
    Ok(())
}

/// Creates this many VMs, runs a command in each, and deletes it.
fn create_and_delete(host: &Host, vms: u32) -> Result<()> {
    let next = AtomicU32::new(0);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..PARALLEL_VMS)
            .map(|_| {
                scope.spawn(|| {
                    while next.fetch_add(1, Ordering::Relaxed) < vms {
                        run_one(host)?;
                    }
                    anyhow::Ok(())
                })
            })
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))?)
    })
}

#[rustfmt::skip]
const RUN: &[&str] = &[
    "vm", "run", "-d", "--image", "tiny", "--vcpu", "1", "--memory", "128M",
    "--disk-size", "64M", "--system-overlay-size", "64M",
];

fn run_one(host: &Host) -> Result<()> {
    let name = host.ok(RUN)?;
    let name = name.trim();
    let hostname = host.ok(&["vm", "exec", name, "--", "busybox", "hostname"])?;
    ensure!(hostname.trim() == name, "the hostname of {name} is {hostname}");
    host.ok(&["vm", "delete", "--force", name])?;
    Ok(())
}
