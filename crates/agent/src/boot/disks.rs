//! The VM's disks, in the order in which the host attached them.

use std::{
    mem::MaybeUninit,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::inotify,
};

use super::error::{BootError, failed};

/// Timeout for a disk to appear after its driver is loaded. The host limits the duration of the whole boot.
const DISK_TIMEOUT: Duration = Duration::from_secs(60);

/// The disks `/dev/vda`, `/dev/vdb`, …
#[derive(Debug)]
pub(super) struct Disks(std::ops::RangeInclusive<char>);

impl Disks {
    pub(super) fn new() -> Self {
        Self('a'..='z')
    }

    /// Waits for the next disk and returns its path.
    pub(super) fn next(&mut self) -> Result<PathBuf, BootError> {
        let letter = self.0.next().unwrap_or('z');
        let path = PathBuf::from(format!("/dev/vd{letter}"));
        wait_for(&path)?;
        Ok(path)
    }
}

fn wait_for(path: &Path) -> Result<(), BootError> {
    if path.exists() {
        return Ok(());
    }
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK);
    let watch = watch.map_err(failed("wait for", path))?;
    inotify::add_watch(&watch, "/dev", inotify::WatchFlags::CREATE).map_err(failed("wait for", path))?;
    let deadline = Instant::now() + DISK_TIMEOUT;
    while !path.exists() {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(remaining).ok();
        let events = poll(&mut [PollFd::new(&watch, PollFlags::IN)], timeout.as_ref());
        if events.map_err(failed("wait for", path))? == 0 {
            return Err(BootError::NoDisk(path.to_owned(), DISK_TIMEOUT.as_secs()));
        }
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&watch, &mut buffer);
        while reader.next().is_ok() {}
    }
    Ok(())
}
