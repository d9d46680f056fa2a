//! CPU time that threads and processes have used.

use std::{io, time::Duration};

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Returns the CPU time of the calling thread, including guest code run in its `KVM_RUN`.
pub(crate) fn thread_cpu_time() -> Duration {
    duration(clock_gettime(ClockId::ThreadCPUTime))
}

/// Returns the CPU time of process `pid`, the sum of its threads.
///
/// # Errors
/// Returns an error if there is no such process.
pub fn process_cpu_time(pid: u32) -> io::Result<Duration> {
    let pid = i32::try_from(pid).map_err(io::Error::other)?;
    let mut clock = 0;
    // SAFETY: the pointer is to a local of the type that the function writes.
    let failed = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    if failed != 0 {
        return Err(io::Error::from_raw_os_error(failed));
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local of the type that the function writes; an unknown clock is an error.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(duration(Timespec { tv_sec: time.tv_sec, tv_nsec: time.tv_nsec }))
}

/// Converts a clock's time; the kernel returns no negative CPU time.
fn duration(time: Timespec) -> Duration {
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_uses_cpu_time_of_thread_and_process() {
        let before = (thread_cpu_time(), process_cpu_time(std::process::id()).unwrap());
        let worked = (0..1_000_000_u64).fold(0, |sum, number| std::hint::black_box(sum ^ number));
        std::hint::black_box(worked);
        let after = (thread_cpu_time(), process_cpu_time(std::process::id()).unwrap());
        assert!(after.0 > before.0 && after.1 > before.1, "{before:?} {after:?}");
        assert!(process_cpu_time(u32::MAX).is_err());
    }
}
