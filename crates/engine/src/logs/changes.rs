//! Waiting until a log has more.

use std::{io, mem::MaybeUninit, path::PathBuf};

use banger_sys::Watched;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

/// Watches a log's file for being written, and its folder for another file in its place.
#[derive(Debug)]
pub(super) struct Changes {
    inotify: Watched,
    path: PathBuf,
}

impl Changes {
    /// Watches the log at `path`, whose folder must be there.
    pub(super) fn of(path: PathBuf) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        if let Some(folder) = path.parent() {
            // Not every write to a file in it: the VM's disks are there too.
            inotify::add_watch(&inotify, folder, WatchFlags::CREATE | WatchFlags::MOVED_TO)?;
        }
        let changes = Self { inotify: Watched::new(inotify)?, path };
        changes.watch_file()?;
        Ok(changes)
    }

    /// Watches the file that is at the path now; one that is watched already is watched once.
    pub(super) fn watch_file(&self) -> io::Result<()> {
        match inotify::add_watch(&self.inotify, &self.path, WatchFlags::MODIFY) {
            Ok(_) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until something has changed since the last time.
    pub(super) async fn next(&self) -> io::Result<()> {
        let mut ready = self.inotify.readable().await?;
        let mut events = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut events);
        while reader.next().is_ok() {}
        ready.clear_ready();
        Ok(())
    }
}
