//! The daemon's socket. If another program removes it, such as a cleaner of temporary files, the daemon creates it
//! again: only this daemon can, because it holds the store's lock.

use std::{
    fs, io,
    mem::MaybeUninit,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use banger_sys::Watched;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::net::{UnixListener, UnixStream};

/// Time between two attempts to create the socket again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The socket that clients connect to.
#[derive(Debug)]
pub(crate) struct Socket {
    path: PathBuf,
    bound: Bound,
}

#[derive(Debug)]
struct Bound {
    listener: UnixListener,
    /// Device and inode of the socket's file.
    file: (u64, u64),
    /// Reports removals in the socket's directory, and of the directory.
    removals: Watched,
}

impl Socket {
    /// Listens at `path`. Removes an old socket there: the lock ensures that its daemon is dead.
    pub(crate) fn bind(path: PathBuf) -> io::Result<Self> {
        Ok(Self { bound: Bound::new(&path)?, path })
    }

    /// Accepts a connection. Creates the socket again if it was removed.
    pub(crate) async fn accept(&mut self) -> io::Result<UnixStream> {
        loop {
            if !self.bound.is_at(&self.path) {
                self.bound = match Bound::new(&self.path) {
                    Ok(bound) => bound,
                    Err(error) => {
                        tokio::time::sleep(RETRY_INTERVAL).await;
                        return Err(error);
                    }
                };
                tracing::warn!(path = %self.path.display(), "the socket was removed, and created again");
            }
            tokio::select! {
                accepted = self.bound.listener.accept() => return Ok(accepted?.0),
                changed = self.bound.wait_for_removal() => changed?,
            }
        }
    }
}

impl Bound {
    fn new(path: &Path) -> io::Result<Self> {
        let dir = path.parent().unwrap_or(Path::new("/"));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let removal =
            WatchFlags::DELETE | WatchFlags::MOVED_FROM | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
        inotify::add_watch(&watch, dir, removal)?;
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, file: identity(path)?, removals: Watched::new(watch)? })
    }

    /// Waits until something was removed from the directory.
    async fn wait_for_removal(&self) -> io::Result<()> {
        let mut ready = self.removals.readable().await?;
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.removals, &mut space);
        while events.next().is_ok() {}
        ready.clear_ready();
        Ok(())
    }

    fn is_at(&self, path: &Path) -> bool {
        identity(path).is_ok_and(|file| file == self.file)
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let meta = fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}
