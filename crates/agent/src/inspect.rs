//! The guest's state, as the kernel reports it.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    time::{SystemTime, UNIX_EPOCH},
};

use banger_proto::{DiskUsage, Inspection, InterfaceUsage};
use rustix::fs::statvfs;

/// Maximum number of network interfaces in a report: bridges and containers in a guest may create any number.
const MAX_INTERFACES: usize = 64;

/// Inspects the guest. Values that cannot be read are zero or omitted.
pub(crate) fn inspect() -> Inspection {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (memory_total, memory_available) = memory(&read("/proc/meminfo"));
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Inspection {
        uptime_ms: uptime_ms(&read("/proc/uptime")),
        clock_ns: u64::try_from(clock.as_nanos()).unwrap_or(u64::MAX),
        load: load(&read("/proc/loadavg")),
        memory_total,
        memory_available,
        disks: disks(),
        interfaces: interfaces(&read("/proc/net/dev")),
    }
}

/// Returns the usage of the root and of a separately mounted work disk.
fn disks() -> Vec<DiskUsage> {
    let device = |path: &str| fs::metadata(path).ok().map(|meta| meta.dev());
    let mut paths = vec!["/"];
    if device("/root").is_some_and(|work| Some(work) != device("/")) {
        paths.push("/root");
    }
    let usage = |path: &str| {
        let disk = statvfs(path).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
        Some(DiskUsage {
            path: path.to_owned(),
            total: bytes(disk.f_blocks),
            available: bytes(disk.f_bavail),
        })
    };
    paths.into_iter().filter_map(usage).collect()
}

/// Parses proc(5) uptime: seconds since boot with hundredths, and another number.
fn uptime_ms(uptime: &str) -> u64 {
    let Some((seconds, hundredths)) = uptime.split_whitespace().next().and_then(|word| word.split_once('.'))
    else {
        return 0;
    };
    let seconds: u64 = seconds.parse().unwrap_or(0);
    let hundredths: u64 = hundredths.parse().unwrap_or(0);
    seconds.saturating_mul(1000).saturating_add(hundredths.min(99) * 10)
}

/// Returns the first number of proc(5) loadavg: the average of one minute.
fn load(loadavg: &str) -> f64 {
    let load = loadavg.split_whitespace().next().and_then(|word| word.parse().ok());
    load.filter(|load: &f64| load.is_finite()).unwrap_or(0.0)
}

/// Returns total and available memory from proc(5) meminfo, in bytes.
fn memory(meminfo: &str) -> (u64, u64) {
    let bytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    };
    (bytes("MemTotal").unwrap_or(0), bytes("MemAvailable").unwrap_or(0))
}

/// Parses proc(5) net/dev: two header lines, then each interface's name and sixteen numbers. The first number is the
/// bytes received, the ninth the bytes sent.
fn interfaces(dev: &str) -> Vec<InterfaceUsage> {
    let interface = |line: &str| {
        // A name may contain a colon, the numbers do not.
        let (name, numbers) = line.rsplit_once(':')?;
        let mut numbers = numbers.split_whitespace();
        let received = numbers.next()?.parse().ok()?;
        let sent = numbers.nth(7)?.parse().ok()?;
        Some(InterfaceUsage { name: name.trim().to_owned(), received, sent })
    };
    let all = dev.lines().skip(2).filter_map(interface);
    all.filter(|interface| interface.name != "lo").take(MAX_INTERFACES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptime_load_and_memory_are_parsed() {
        assert_eq!(uptime_ms("12345.67 45678.90\n"), 12_345_670);
        assert!((load("0.52 0.58 0.59 1/467 11841\n") - 0.52).abs() < 1e-9);
        let meminfo = "MemTotal:        2014312 kB\nMemFree:          1 kB\nMemAvailable:    1500000 kB\n";
        assert_eq!(memory(meminfo), (2_014_312 * 1024, 1_500_000 * 1024));
    }

    #[test]
    fn all_interfaces_except_loopback_are_parsed() {
        let dev = "Inter-|   Receive                                                |  Transmit\n \
            face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n\
            \x20   lo:     100       2    0    0    0     0          0         0      100       2    0    0    0     0       0          0\n\
            \x20 eth0:1234567 2000    0    0    0     0          0         0    89012     800    0    0    0     0       0          0\n\
            a:1: 5 0 0 0 0 0 0 0 6 0 0 0 0 0 0 0\n";
        let interface = |name: &str, received, sent| InterfaceUsage { name: name.to_owned(), received, sent };
        assert_eq!(interfaces(dev), [interface("eth0", 1_234_567, 89_012), interface("a:1", 5, 6)]);
    }

    #[test]
    fn malformed_kernel_data_is_parsed_as_zero_or_empty() {
        for odd in
            ["", "x", "-1.-1", "99999999999999999999.5", "NaN inf", ":::", "\n\na:1 2\nb: x", "MemTotal: kB"]
        {
            assert_eq!(load(odd).max(0.0), if odd.starts_with("9999") { load(odd) } else { 0.0 });
            assert_eq!(
                (uptime_ms(odd) / 1000, memory(odd), interfaces(odd)),
                (0, (0, 0), Vec::new()),
                "{odd}"
            );
        }
        assert_eq!(memory("MemTotal: 99999999999999999 kB"), (0, 0));
        let many: String = (0..1000).map(|n| format!("e{n}: 1 0 0 0 0 0 0 0 1\n")).collect();
        assert_eq!(interfaces(&format!("\n\n{many}")).len(), MAX_INTERFACES);
    }

    #[test]
    fn inspect_reports_this_machine() {
        let inspection = inspect();
        assert!(
            inspection.uptime_ms > 0
                && inspection.clock_ns > 0
                && inspection.memory_total >= inspection.memory_available
        );
        assert_eq!(inspection.disks[0].path, "/");
        assert!(inspection.disks[0].total >= inspection.disks[0].available);
    }
}
