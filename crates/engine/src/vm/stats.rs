//! Resource use of VMs: on the host as the kernel reports it, inside as the guest reports it.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use banger_api::{DiskStats, GuestStats, Id, Size, VmState, VmStats};
use banger_proto::Inspection;
use jiff::Timestamp;

use super::{guest, services::Services};
use crate::{
    error::EngineError,
    resource::Resource,
    spans::now_ns,
    store::{Scope, VmRecord},
};

/// Minimum time between two samples that are compared: the kernel counts CPU time in hundredths of a second.
const MIN_INTERVAL_NS: u64 = 1_000_000_000;

/// Timeout for the guest's statistics.
const GUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum load that a guest may report: far more than the processes of the largest VM.
const MAX_LOAD: f64 = 100_000.0;

/// CPU time of a VM's processes up to a point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sample {
    at_ns: u64,
    cpu_ns: u64,
}

/// The last two samples of each running VM, at least [`MIN_INTERVAL_NS`] apart.
#[derive(Debug, Default)]
pub(super) struct Samples(Mutex<HashMap<Id, (Option<Sample>, Sample)>>);

impl Samples {
    /// Records a sample and returns the earlier one to compare it with.
    fn record(&self, vm: &Id, sample: Sample) -> Option<Sample> {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((before, last)) = samples.get_mut(vm) else {
            samples.insert(vm.clone(), (None, sample));
            return None;
        };
        if sample.at_ns.saturating_sub(last.at_ns) < MIN_INTERVAL_NS {
            return *before;
        }
        *before = Some(std::mem::replace(last, sample));
        *before
    }

    /// Removes the samples of all VMs except `vms`.
    pub(super) fn retain(&self, vms: &HashSet<&Id>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| vms.contains(id));
    }
}

/// Samples a VM's CPU time if the VM runs.
pub(super) fn sample_cpu(services: &Services, samples: &Samples, vm: &VmRecord) -> Result<(), EngineError> {
    if let Some(usage) = vm_usage(services, vm)? {
        samples.record(&vm.id, Sample { at_ns: now_ns(), cpu_ns: usage.cpu_ns });
    }
    Ok(())
}

/// Resource use of a VM's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ProcessUsage {
    cpu_ns: u64,
    started_ns: u64,
    resident: u64,
}

/// Returns the total use of a VM's processes, with the start time of the first one.
fn vm_usage(services: &Services, vm: &VmRecord) -> Result<Option<ProcessUsage>, EngineError> {
    let mut all: Option<ProcessUsage> = None;
    for row in services.store.journal_of(&vm.id, Scope::Run)? {
        let Resource::Process { id: Some(id), .. } = row.resource else { continue };
        let is_vmm = vm.handle.as_ref().is_some_and(|handle| handle.pid == id.pid);
        let Some(process) = process_usage(id.pid, id.started, is_vmm) else { continue };
        all = Some(match all {
            None => process,
            Some(all) => ProcessUsage {
                cpu_ns: all.cpu_ns + process.cpu_ns,
                started_ns: all.started_ns.min(process.started_ns),
                resident: all.resident + process.resident,
            },
        });
    }
    Ok(all)
}

/// Returns the use of process `pid` if it started at `started`. Guest memory counts for the VMM only, because its
/// helpers map the same memory.
fn process_usage(pid: u32, started: u64, is_vmm: bool) -> Option<ProcessUsage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (cpu_ticks, began) = cpu_and_start(&stat)?;
    if began != started {
        return None;
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let shared = if is_vmm { resident_of(&status, "RssShmem:") } else { 0 };
    let tick_ns = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
    Some(ProcessUsage {
        cpu_ns: cpu_ticks * tick_ns,
        started_ns: began * tick_ns,
        resident: resident_of(&status, "RssAnon:") + resident_of(&status, "RssFile:") + shared,
    })
}

/// Returns CPU time (user and kernel) and start time since boot, in clock ticks (`/proc/pid/stat`, fields 14, 15, 22).
fn cpu_and_start(stat: &str) -> Option<(u64, u64)> {
    // The second field is the program's name in parentheses, which may contain any character.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let cpu = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some((cpu, fields.nth(6)?.parse().ok()?))
}

/// Returns the value of a line of `/proc/pid/status`, such as `RssAnon:      1234 kB`, in bytes.
fn resident_of(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib: Option<u64> = line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok());
    kib.unwrap_or(0) * 1024
}

/// Returns the CPU use in percent of one CPU, and the seconds it was measured over.
#[allow(clippy::cast_precision_loss)] // for people
fn cpu_usage(from: Sample, to: Sample) -> Option<(f64, f64)> {
    let over = to.at_ns.checked_sub(from.at_ns).filter(|over| *over > 0)?;
    // The total shrinks when a helper exits.
    let cpu = to.cpu_ns.saturating_sub(from.cpu_ns);
    let tenths = (cpu as f64 * 1000.0 / over as f64).round();
    Some((tenths / 10.0, (over as f64 / 1e8).round() / 10.0))
}

/// Returns nanoseconds since the host's boot, the clock of process start times.
fn since_boot_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Returns the current resource use of `vm`.
pub(super) async fn stats(
    services: &Services,
    samples: &Samples,
    vm: VmRecord,
) -> Result<VmStats, EngineError> {
    let guest = guest_stats(&vm).await;
    let usage = vm_usage(services, &vm)?;
    let cpu = usage.and_then(|usage| {
        let now = Sample { at_ns: now_ns(), cpu_ns: usage.cpu_ns };
        let from = samples.record(&vm.id, now);
        // Without an earlier sample, compare with the start of the VM's first process.
        let began = || Sample {
            at_ns: now.at_ns.saturating_sub(since_boot_ns().saturating_sub(usage.started_ns)),
            cpu_ns: 0,
        };
        cpu_usage(from.unwrap_or_else(began), now)
    });
    let dir = services.vm_dir(&vm);
    let disks = [("system_overlay", dir.overlay()), ("work", dir.work_disk())];
    let disks = disks.into_iter().filter_map(|(name, file)| disk(name, &file).transpose());
    Ok(VmStats {
        at: Timestamp::now(),
        cpu_percent: cpu.map(|(percent, _)| percent),
        cpu_over_s: cpu.map(|(_, over)| over),
        vcpu: vm.vcpu,
        resident: usage.map(|usage| Size::bytes(usage.resident)),
        memory: vm.memory,
        disks: disks.collect::<Result<_, _>>()?,
        guest,
        id: vm.id,
        name: vm.name,
        state: vm.state,
    })
}

/// Returns a disk's sizes, or `None` if the file does not exist.
fn disk(name: &str, path: &Path) -> Result<Option<DiskStats>, EngineError> {
    match fs::metadata(path) {
        Ok(meta) => Ok(Some(DiskStats {
            name: name.to_owned(),
            apparent: Size::bytes(meta.size()),
            // In units of 512 bytes, whatever the file system's block size (stat(2)).
            real: Size::bytes(meta.blocks().saturating_mul(512)),
        })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(EngineError::file("stat", path)(error)),
    }
}

/// Returns the guest's own statistics, if the VM runs and its agent supports them and answers in time.
async fn guest_stats(vm: &VmRecord) -> Option<GuestStats> {
    let handle = vm.handle.as_ref().filter(|_| vm.state == VmState::Running)?;
    match tokio::time::timeout(GUEST_TIMEOUT, guest::inspect(handle)).await {
        Ok(Ok(inspection)) => inspection.map(to_guest_stats),
        Ok(Err(error)) => {
            tracing::debug!(vm = %vm.id, %error, "cannot get statistics from the guest");
            None
        }
        Err(_) => {
            tracing::debug!(vm = %vm.id, "the guest did not send statistics in time");
            None
        }
    }
}

fn to_guest_stats(inspection: Inspection) -> GuestStats {
    let sum = |bytes: fn(&banger_proto::InterfaceUsage) -> u64| {
        inspection.interfaces.iter().map(bytes).fold(0, u64::saturating_add)
    };
    GuestStats {
        uptime_ms: inspection.uptime_ms,
        load: inspection.load.clamp(0.0, MAX_LOAD),
        memory_total: Size::bytes(inspection.memory_total),
        memory_available: Size::bytes(inspection.memory_available.min(inspection.memory_total)),
        received: sum(|interface| interface.received),
        sent: sum(|interface| interface.sent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, cpu_ms: u64) -> Sample {
        Sample { at_ns: seconds * 1_000_000_000, cpu_ns: cpu_ms * 1_000_000 }
    }

    #[test]
    fn cpu_use_is_computed_between_two_samples() {
        assert_eq!(cpu_usage(at(10, 0), at(20, 15_000)), Some((150.0, 10.0)));
        assert_eq!(cpu_usage(at(10, 100), at(12, 101)), Some((0.1, 2.0)));
        assert_eq!(
            cpu_usage(at(10, 100), at(12, 50)),
            Some((0.0, 2.0)),
            "a process that ended does not count as negative use"
        );
        assert_eq!(cpu_usage(at(10, 0), at(10, 5)), None);
    }

    #[test]
    fn compared_samples_are_at_least_the_minimum_interval_apart() {
        let samples = Samples::default();
        let vm = Id::from_random([1; 8]);
        let near = Sample { at_ns: 1_500_000_000, cpu_ns: 0 };
        assert_eq!(samples.record(&vm, at(1, 0)), None);
        assert_eq!(samples.record(&vm, near), None);
        assert_eq!(samples.record(&vm, at(10, 1)), Some(at(1, 0)));
        assert_eq!(samples.record(&vm, at(10, 2)), Some(at(1, 0)));
        assert_eq!(samples.record(&vm, at(11, 3)), Some(at(10, 1)));
        samples.retain(&HashSet::new());
        assert_eq!(samples.record(&vm, at(20, 0)), None);
    }

    #[test]
    fn process_stat_and_status_are_parsed() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 4 0 998877 1000 200";
        assert_eq!(cpu_and_start(stat), Some((300, 998_877)));
        assert_eq!(cpu_and_start("7 (a) S 1"), None);
        let status = "Name:\tqemu\nRssAnon:\t      12 kB\nRssShmem:\t  524288 kB\n";
        assert_eq!(resident_of(status, "RssShmem:"), 512 << 20);
        assert_eq!(resident_of(status, "RssFile:"), 0);
    }

    #[test]
    fn process_usage_requires_a_matching_start_time() {
        let pid = std::process::id();
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        let (_, started) = cpu_and_start(&stat).unwrap();
        let usage = process_usage(pid, started, true).unwrap();
        assert!(usage.resident > 100 << 10, "{usage:?}");
        assert!(usage.started_ns <= since_boot_ns(), "{usage:?}");
        assert_eq!(process_usage(pid, started + 1, true), None);
    }

    #[test]
    fn a_sparse_file_has_a_smaller_real_than_apparent_size() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 << 20).unwrap();
        let disk = disk("work", file.path()).unwrap().unwrap();
        assert_eq!(disk.apparent, Size::mib(64));
        assert!(disk.real < Size::mib(1), "{disk:?}");
        assert!(super::disk("work", Path::new("/nonexistent")).unwrap().is_none());
    }

    #[test]
    fn implausible_guest_statistics_are_clamped() {
        let interface = |received| banger_proto::InterfaceUsage { name: "e".into(), received, sent: 1 };
        let stats = to_guest_stats(Inspection {
            memory_total: 100,
            memory_available: 200,
            load: f64::MAX,
            interfaces: vec![interface(u64::MAX), interface(5)],
            ..Inspection::default()
        });
        assert_eq!(stats.memory_available, Size::bytes(100));
        assert_eq!((stats.received, stats.sent), (u64::MAX, 2));
        assert!((stats.load - MAX_LOAD).abs() < 1.0, "{stats:?}");
    }
}
