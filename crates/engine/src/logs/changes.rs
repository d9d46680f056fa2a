//! Waits until a log changes.

use std::{io, mem::MaybeUninit, path::PathBuf};

use banger_sys::Watched;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

/// Watches a log's file for writes, and its directory for a new file at the log's path.
#[derive(Debug)]
pub(crate) struct Changes {
    inotify: Watched,
    path: PathBuf,
}

impl Changes {
    /// Watches the log at `path`, whose directory must exist.
    pub(crate) fn new(path: PathBuf) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        if let Some(dir) = path.parent() {
            // Not writes to all files in the directory: the VM's disks are in it too.
            inotify::add_watch(&inotify, dir, WatchFlags::CREATE | WatchFlags::MOVED_TO)?;
        }
        let changes = Self { inotify: Watched::new(inotify)?, path };
        changes.watch_file()?;
        Ok(changes)
    }

    /// Watches the current file at the path. Watching the same file again has no effect.
    pub(crate) fn watch_file(&self) -> io::Result<()> {
        match inotify::add_watch(&self.inotify, &self.path, WatchFlags::MODIFY) {
            Ok(_) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for a change since the last call.
    pub(crate) async fn next(&self) -> io::Result<()> {
        let mut ready = self.inotify.readable().await?;
        let mut events = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut events);
        while reader.next().is_ok() {}
        ready.clear_ready();
        Ok(())
    }
}
