//! Records which processes of this machine connect to which addresses, by a program in the kernel.
//!
//! The kernel runs the program ([`program`]) for each `connect` and each datagram to an address, before any packet is
//! sent. It stores the process in a table of the kernel ([`bpf`]), which is only read on request: so recording has no
//! cost outside the kernel, and the process may have ended by then.

mod bpf;
mod entry;
mod program;

use std::{
    cmp::Reverse,
    io,
    num::NonZero,
    os::fd::{BorrowedFd, OwnedFd},
    thread::available_parallelism,
};

use bpf::{Attachment, Table};
pub use entry::Connection;

/// Number of destinations that a record holds at least. Beyond it, the kernel forgets those that were used least
/// recently.
const MIN_DESTINATIONS: u32 = 1024;

/// Number of free entries that each processor may keep for itself (Linux, `LOCAL_FREE_TARGET` of
/// `kernel/bpf/bpf_lru_list.c`).
const FREE_PER_PROCESSOR: u32 = 128;

/// Records connections until it is dropped. With two processors, its table has 1280 entries and needs 170 kB of the
/// kernel's memory: 104 bytes for each entry, and 16 for each of 2048 buckets.
#[derive(Debug)]
pub struct ConnectionRecord {
    table: Table,
    _programs: Vec<OwnedFd>,
}

impl ConnectionRecord {
    /// Starts a record of the processes in `cgroup` and below, a directory of a mounted cgroup2. The programs of others
    /// for it still run.
    ///
    /// # Errors
    /// Returns an error if the kernel has no BPF for cgroups, the process lacks `CAP_SYS_ADMIN`, or `cgroup` is none.
    pub fn start(cgroup: BorrowedFd<'_>) -> io::Result<Self> {
        let processors = available_parallelism().map_or(1, NonZero::get);
        let processors = u32::try_from(processors).unwrap_or(u32::MAX);
        let entries = MIN_DESTINATIONS.saturating_add(FREE_PER_PROCESSOR.saturating_mul(processors));
        let table = Table::new(entries)?;
        let programs = Attachment::ALL.iter().map(|attachment| {
            let instructions = program::instructions(attachment.family(), table.fd());
            bpf::attach(&instructions, *attachment, cgroup)
        });
        Ok(Self { _programs: programs.collect::<io::Result<_>>()?, table })
    }

    /// Returns the destinations, those used last first.
    ///
    /// # Errors
    /// Returns an error if the kernel does not return its table.
    pub fn read(&self) -> io::Result<Vec<Connection>> {
        let mut entries = self.table.entries()?;
        entries.sort_by_key(|(_, value)| Reverse(value.time));
        Ok(entries.iter().filter_map(|(key, value)| entry::connection(key, value)).collect())
    }
}

#[cfg(test)]
mod tests;
