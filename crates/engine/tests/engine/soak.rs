//! Checks that the daemon does not grow with the number of VMs.

use std::fs;

use anyhow::{Context, Result, ensure};
use banger_api::Vmm;
use libtest_mimic::Trial;

use crate::{
    driver::Command,
    host::{Host, VMMS},
    trial,
};

/// Number of VMs before the first measurement, which fill the daemon's bounded histories, and in total.
const WARM_UP: u32 = 40;
const VMS: u32 = 100;

/// Maximum growth of the daemon's memory. The allocator does not return all memory, but a leak of 80 KiB per VM
/// exceeds this.
const MAX_GROWTH_KIB: u64 = 4 << 10;

/// Maximum number of additional threads: idle ones exit only after ten seconds. Descriptors and tasks are exact.
const MAX_MORE_THREADS: u64 = 8;

pub(crate) fn trials() -> Vec<Trial> {
    VMMS.into_iter()
        .map(|vmm| {
            trial(format!("soak::{vmm:?}"), move || the_daemon_does_not_grow_with_the_number_of_vms(vmm))
        })
        .collect()
}

/// Resource use of a process.
#[derive(Debug)]
struct Usage {
    resident_kib: u64,
    descriptors: usize,
    threads: u64,
    tasks: u64,
}

impl Usage {
    /// Measures the daemon after `vms` more VMs.
    fn after(host: &mut Host, vmm: Vmm, vms: u32) -> Result<Self> {
        let tasks = host.send_ok(Command::Soak { vms, vmm })?.as_u64().context("tasks")?;
        let pid = host.daemon_pid().context("no daemon")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let number = |key: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).context("no such line")?;
            Ok(line.split_whitespace().next().context("no number")?.parse()?)
        };
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        Ok(Self { resident_kib: number("RssAnon:")?, descriptors, threads: number("Threads:")?, tasks })
    }
}

fn the_daemon_does_not_grow_with_the_number_of_vms(vmm: Vmm) -> Result<()> {
    let mut host = Host::new()?;
    let before = Usage::after(&mut host, vmm, WARM_UP)?;
    let after = Usage::after(&mut host, vmm, VMS - WARM_UP)?;
    host.check_nothing_left()?;
    let grown = after.resident_kib.saturating_sub(before.resident_kib);
    ensure!(grown <= MAX_GROWTH_KIB, "memory: {before:?}, {after:?}");
    ensure!(after.descriptors <= before.descriptors, "descriptors: {before:?}, {after:?}");
    ensure!(after.tasks <= before.tasks, "tasks: {before:?}, {after:?}");
    ensure!(after.threads <= before.threads + MAX_MORE_THREADS, "threads: {before:?}, {after:?}");
    Ok(())
}
