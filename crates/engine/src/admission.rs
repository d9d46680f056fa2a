//! Admission: refuses requests that the host has no memory or disk space for, before any work, with the numbers.
//!
//! - **Memory**: a VM's memory must be available on the host when it starts (`MemAvailable`, which counts caches that
//!   the kernel can drop). Memory that running VMs were assigned and have not touched yet is not reserved.
//! - **Disk**: [`MIN_FREE_SPACE`] must stay free in the state directory's file system, so that the store, the logs and
//!   running VMs can still write. A VM's disks are sparse and may exceed the space there is. A write of known size
//!   must fit above the reserve.

use std::{fs, io, path::Path};

use banger_api::{ApiError, ErrorKind, Size};

/// Space that must stay free in the state directory's file system.
pub(crate) const MIN_FREE_SPACE: Size = Size::mib(256);

/// The total and the available amount of memory or disk space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Capacity {
    pub(crate) available: Size,
    pub(crate) total: Size,
}

/// Refuses more memory than the host has available. Refuses nothing if that is unknown.
pub(crate) fn check_memory(requested: Size) -> Result<(), ApiError> {
    host_memory().map_or(Ok(()), |capacity| check_memory_in(requested, capacity))
}

fn check_memory_in(requested: Size, capacity: Capacity) -> Result<(), ApiError> {
    let Capacity { available, total } = capacity;
    if requested <= available {
        return Ok(());
    }
    let message = format!("{requested} of memory requested; the host has {available} available of {total}");
    Err(ApiError::new(ErrorKind::NoMemory, message))
}

/// Refuses to write `requested` bytes for `what` if the file system would keep less than the reserve free. Refuses
/// nothing if the free space is unknown.
pub(crate) fn check_space(dir: &Path, what: &str, requested: Size) -> Result<(), ApiError> {
    disk_capacity(dir).map_or(Ok(()), |capacity| check_space_in(dir, what, requested, capacity))
}

fn check_space_in(dir: &Path, what: &str, requested: Size, capacity: Capacity) -> Result<(), ApiError> {
    let Capacity { available, total } = capacity;
    let needed = Size::bytes(requested.as_bytes().saturating_add(MIN_FREE_SPACE.as_bytes()));
    if needed <= available {
        return Ok(());
    }
    let parts = if requested > Size::bytes(0) {
        format!(" ({requested} plus a reserve of {MIN_FREE_SPACE})")
    } else {
        String::new()
    };
    let message = format!(
        "not enough space for {what}: it needs {needed}{parts}, and {} has {available} free of {total}",
        dir.display()
    );
    Err(ApiError::new(ErrorKind::NoSpace, message))
}

/// Returns the host's memory, and the kernel's estimate of what is available without swapping.
pub(crate) fn host_memory() -> Option<Capacity> {
    parse_meminfo(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn parse_meminfo(text: &str) -> Option<Capacity> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(Size::bytes(kib.checked_mul(1024)?))
    };
    Some(Capacity { available: field("MemAvailable")?, total: field("MemTotal")? })
}

/// Returns the space of the path's file system; for a missing path, that of its nearest existing ancestor.
pub(crate) fn disk_capacity(dir: &Path) -> Option<Capacity> {
    let stat = with_existing_ancestor(dir, |dir| rustix::fs::statvfs(dir).map_err(io::Error::from)).ok()?;
    let size = |blocks: u64| Size::bytes(blocks.saturating_mul(stat.f_frsize));
    // A file system without a size, such as an unlimited tmpfs, has no limit to check.
    (stat.f_blocks > 0).then(|| Capacity { available: size(stat.f_bavail), total: size(stat.f_blocks) })
}

/// Calls `operation` with `path`, or with its nearest existing ancestor.
pub(crate) fn with_existing_ancestor<T>(
    path: &Path,
    operation: impl Fn(&Path) -> io::Result<T>,
) -> io::Result<T> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for dir in path.ancestors() {
        match operation(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => last = error,
            answer => return answer,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excess_memory_requests_are_refused_with_the_numbers() {
        let capacity = Capacity { available: Size::mib(3174), total: Size::gib(24) };
        assert_eq!(check_memory_in(Size::gib(3), capacity), Ok(()));
        let error = check_memory_in(Size::gib(64), capacity).unwrap_err();
        assert_eq!(error.kind, ErrorKind::NoMemory);
        assert_eq!(error.message, "64G of memory requested; the host has 3.1G available of 24G");
    }

    #[test]
    fn requests_that_would_use_the_disk_reserve_are_refused() {
        let capacity = Capacity { available: Size::mib(300), total: Size::gib(1) };
        let check = |mib| check_space_in(Path::new("/s"), "the import", Size::mib(mib), capacity);
        assert_eq!((check(0), check(44)), (Ok(()), Ok(())));
        let error = check(45).unwrap_err();
        assert_eq!(error.kind, ErrorKind::NoSpace);
        assert_eq!(
            error.message,
            "not enough space for the import: it needs 301M (45M plus a reserve of 256M), and /s has 300M free of 1G"
        );
    }

    #[test]
    fn meminfo_is_parsed_and_malformed_text_yields_none() {
        let text = "MemTotal:       24576000 kB\nMemFree:  1 kB\nMemAvailable:   3250000 kB\n";
        let capacity =
            Capacity { available: Size::bytes(3_250_000 << 10), total: Size::bytes(24_576_000 << 10) };
        assert_eq!(parse_meminfo(text), Some(capacity));
        for text in
            ["", "MemTotal: 1 kB\n", "MemTotal: 1 kB\nMemAvailable: x kB\n", "MemTotal: 1\nMemAvailable: 1\n"]
        {
            assert_eq!(parse_meminfo(text), None, "{text}");
        }
        assert!(host_memory().is_some());
    }

    #[test]
    fn a_missing_directory_uses_its_ancestors_file_system() {
        let dir = tempfile::tempdir().unwrap();
        let total = |path: &Path| disk_capacity(path).map(|capacity| capacity.total);
        assert_eq!(total(&dir.path().join("a/b/c")), total(dir.path()));
    }
}
