//! One daemon for each store: the lock in the state directory.
//!
//! A daemon holds the lock from before it reads the store until its process ends. The lock's file has a
//! [`LockRecord`], by which commands find the daemon's sockets, whatever their environment, and by which the next
//! daemon learns how the last one ended.

use std::{
    fs::{File, OpenOptions, Permissions, TryLockError},
    io,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use banger_api::{ApiError, Dirs, ErrorKind, LockRecord, Remedy};

use crate::{
    dirs,
    error::EngineError,
    files::file_system,
    host::{boot_id, host_name},
    layout::store_file,
    runtime_dir,
};

/// Timeout for another daemon to release the lock. A daemon that stops has 20 s to undo operations and 5 s for its
/// last responses; its end releases the lock at once.
const LOCK_TIMEOUT: Duration = Duration::from_secs(120);

/// The exclusive right to use a store. Dropping it releases the lock.
#[derive(Debug)]
pub struct StoreLock {
    file: File,
    dirs: Dirs,
    record: LockRecord,
    interruption: Interruption,
}

/// What happened to the host since the last daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interruption {
    /// Nothing: everything that the daemon wrote is there.
    None,
    /// The host was shut down after the daemon had stopped. Everything is on the disk.
    Reboot,
    /// The host lost power, or crashed, while the daemon ran. What was not synced may be lost.
    PowerLoss,
}

impl StoreLock {
    /// Locks the store under `dirs`. Waits for a daemon that is stopping.
    ///
    /// # Errors
    /// Returns an error if a directory cannot be used, or another daemon holds the lock, here or on another host.
    pub async fn acquire(dirs: Dirs) -> Result<Self, ApiError> {
        dirs::create_durably(&dirs.state)?;
        let path = dirs.store_lock();
        let file = match tokio::time::timeout(LOCK_TIMEOUT, lock(path.clone())).await {
            Ok(file) => file?,
            Err(_) => return Err(in_use(&path)),
        };
        let (boot_id, host) = (boot_id()?, host_name());
        let previous = read(&file, &path)?;
        if let Some(previous) = &previous {
            check_record_host(previous, &path)?;
        }
        let interruption = match &previous {
            Some(previous) if previous.power_loss => Interruption::PowerLoss,
            Some(previous) if previous.boot_id == boot_id => Interruption::None,
            Some(previous) if previous.stopped => Interruption::Reboot,
            None if !store_file(&dirs).exists() => Interruption::None,
            // Also after a record that is damaged, or of a copied file.
            _ => Interruption::PowerLoss,
        };
        let earlier =
            previous.filter(|previous| previous.boot_id == boot_id).map(|previous| previous.runtime);
        let runtime = runtime_dir::choose(&dirs.runtime, earlier.as_deref())?;
        let inode = file.metadata().map_err(EngineError::file("stat", &path))?.ino();
        let record = LockRecord {
            pid: std::process::id(),
            host,
            boot_id,
            inode,
            runtime: runtime.clone(),
            stopped: false,
            power_loss: interruption == Interruption::PowerLoss,
            running_vms: 0,
        };
        write(&file, &path, &record)?;
        Ok(Self { file, dirs: Dirs { runtime, ..dirs }, record, interruption })
    }

    /// Returns banger's directories, with the directory of the sockets.
    pub fn dirs(&self) -> &Dirs {
        &self.dirs
    }

    /// Returns the locked file. The lock lasts until this file is closed, too.
    pub(crate) fn file(&self) -> Result<File, EngineError> {
        self.file.try_clone().map_err(EngineError::file("open", self.dirs.store_lock()))
    }

    pub(crate) fn interruption(&self) -> Interruption {
        self.interruption
    }

    /// Records that this daemon has dealt with the interruption. Until then, the next one has to.
    pub(crate) fn record_recovery(&self) -> Result<(), EngineError> {
        let record = LockRecord { power_loss: false, ..self.record.clone() };
        write(&self.file, &self.dirs.store_lock(), &record)
    }

    /// Records that the daemon stops, after everything else is on the disk, and how many VMs keep running.
    pub(crate) fn record_stop(&self, running_vms: usize) -> Result<(), EngineError> {
        let record = LockRecord { stopped: true, power_loss: false, running_vms, ..self.record.clone() };
        write(&self.file, &self.dirs.store_lock(), &record)
    }
}

/// Returns the directory of the sockets of the daemon that runs, or ran last since the host started.
pub(crate) fn last_runtime(dirs: &Dirs) -> Option<PathBuf> {
    let path = dirs.store_lock();
    let record = read(&File::open(&path).ok()?, &path).ok()??;
    boot_id().is_ok_and(|boot_id| boot_id == record.boot_id).then_some(record.runtime)
}

/// Returns an error if a daemon or VMs of another host use the store, as far as its lock's record says.
pub(crate) fn check_host(dirs: &Dirs) -> Result<(), ApiError> {
    let path = dirs.store_lock();
    let Ok(file) = File::open(&path) else { return Ok(()) };
    read(&file, &path)?.map_or(Ok(()), |record| check_record_host(&record, &path))
}

/// As [`check_host`]. On a local file system, another host's name is this host's earlier one.
fn check_record_host(record: &LockRecord, path: &Path) -> Result<(), ApiError> {
    if file_system(path).is_some_and(|file_system| file_system.is_local) {
        return Ok(());
    }
    used_elsewhere(record, &host_name(), &boot_id()?, path).map_or(Ok(()), Err)
}

/// Opens and locks the file at `path`.
async fn lock(path: PathBuf) -> Result<File, ApiError> {
    loop {
        let file = open(&path)?;
        let locked = match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => {
                if let Some(holder) = read(&file, &path)?
                    && let Some(error) = used_elsewhere(&holder, &host_name(), &boot_id()?, &path)
                {
                    return Err(error);
                }
                let locking = tokio::task::spawn_blocking(move || file.lock().map(|()| file));
                locking.await.map_err(|error| ApiError::new(ErrorKind::Internal, error.to_string()))?
            }
            Err(TryLockError::Error(error)) => Err(error),
        };
        let file = locked.map_err(|error| cannot_lock(&path, &error))?;
        // Someone may have replaced the file before it was locked here.
        let is_current = || Ok::<_, io::Error>(file.metadata()?.ino() == path.metadata()?.ino());
        if is_current().unwrap_or(false) {
            return Ok(file);
        }
    }
}

fn open(path: &Path) -> Result<File, ApiError> {
    let mut options = OpenOptions::new();
    // Not blocking: another user may have put a pipe there.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.custom_flags(flags.bits().cast_signed());
    let file = options.open(path).map_err(EngineError::file("open", path))?;
    let meta = file.metadata().map_err(EngineError::file("stat", path))?;
    let problem = match () {
        () if !meta.is_file() => "is not a regular file",
        () if meta.uid() != rustix::process::getuid().as_raw() => "belongs to another user",
        () => {
            file.set_permissions(Permissions::from_mode(0o600))
                .map_err(EngineError::file("change the permissions of", path))?;
            return Ok(file);
        }
    };
    let error =
        ApiError::new(ErrorKind::NotPermitted, format!("cannot use {}: it {problem}", path.display()));
    Err(error.remedy(Remedy::ReplaceDirectory))
}

/// Reads the record in `file`; `None` if it has none.
fn read(file: &File, path: &Path) -> Result<Option<LockRecord>, EngineError> {
    let mut text = vec![0; LockRecord::MAX];
    let length = file.read_at(&mut text, 0).map_err(EngineError::file("read", path))?;
    let inode = file.metadata().map_err(EngineError::file("stat", path))?.ino();
    Ok(LockRecord::parse(text.get(..length).unwrap_or_default(), inode))
}

/// Replaces the record in `file`. If the host loses power meanwhile, the file has no record.
fn write(file: &File, path: &Path, record: &LockRecord) -> Result<(), EngineError> {
    let text = record.to_text().map_err(|error| EngineError::file("write", path)(error.into()))?;
    let written = file.set_len(0).and_then(|()| file.write_all_at(text.as_bytes(), 0));
    written.and_then(|()| file.sync_all()).map_err(EngineError::file("write", path))
}

/// Returns an error if a daemon or VMs of another host use the store, as far as its last record says.
fn used_elsewhere(record: &LockRecord, host: &str, boot_id: &str, path: &Path) -> Option<ApiError> {
    if record.host == host || record.boot_id == boot_id || (record.stopped && record.running_vms == 0) {
        return None;
    }
    let user = match record.running_vms {
        _ if !record.stopped => format!("a bangerd (process {})", record.pid),
        1 => "a VM".to_owned(),
        vms => format!("{vms} VMs"),
    };
    let state = path.parent().unwrap_or(path).display();
    let message = format!("the store in {state} is in use by {user} on host {}", record.host);
    let remedy = Remedy::StopOnOtherHost { host: record.host.clone(), lock: path.to_owned() };
    Some(ApiError::new(ErrorKind::Busy, message).remedy(remedy))
}

fn in_use(path: &Path) -> ApiError {
    let holder = File::open(path).ok().and_then(|file| read(&file, path).ok()?);
    let lock = path.display();
    let message = match holder {
        Some(LockRecord { pid, runtime, .. }) => {
            format!("another bangerd (process {pid}, sockets in {}) holds {lock}", runtime.display())
        }
        None => format!("another bangerd holds {lock}"),
    };
    ApiError::new(ErrorKind::Busy, message).remedy(Remedy::StopOtherDaemon)
}

fn cannot_lock(path: &Path, error: &io::Error) -> ApiError {
    let on = file_system(path).map(|file_system| format!(" on {}", file_system.name)).unwrap_or_default();
    ApiError::new(ErrorKind::Io, format!("cannot lock {}{on}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn dirs(dir: &Path) -> Dirs {
        Dirs::find(|name| (name == "HOME").then(|| dir.to_owned())).unwrap()
    }

    fn record(lock: &StoreLock) -> LockRecord {
        read(&lock.file, &lock.dirs.store_lock()).unwrap().unwrap()
    }

    #[tokio::test]
    async fn a_store_has_one_lock() {
        let dir = tempfile::tempdir().unwrap();
        let first = StoreLock::acquire(dirs(dir.path())).await.unwrap();
        assert_eq!(last_runtime(first.dirs()).unwrap(), first.dirs().runtime);
        let kept = first.file().unwrap();
        let second = tokio::spawn(StoreLock::acquire(dirs(dir.path())));
        first.record_stop(0).unwrap();
        assert!(record(&first).stopped);
        drop(first);
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(kept);
        let second = second.await.unwrap().unwrap();
        assert!(!record(&second).stopped);
    }

    #[tokio::test]
    async fn a_power_loss_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = dirs(dir.path());
        let path = dirs.store_lock();
        let acquire = async || StoreLock::acquire(dirs.clone()).await.unwrap();
        let at_next_boot = |lock: StoreLock| {
            let record = LockRecord { boot_id: "earlier".to_owned(), ..record(&lock) };
            fs::write(&path, record.to_text().unwrap()).unwrap();
        };
        assert_eq!(acquire().await.interruption, Interruption::None);
        fs::write(store_file(&dirs), "").unwrap();
        // Killed.
        assert_eq!(acquire().await.interruption, Interruption::None);
        at_next_boot(acquire().await);
        assert_eq!(acquire().await.interruption, Interruption::PowerLoss);
        // Killed before it had dealt with that.
        let lock = acquire().await;
        assert_eq!(lock.interruption, Interruption::PowerLoss);
        lock.record_recovery().unwrap();
        drop(lock);
        assert_eq!(acquire().await.interruption, Interruption::None);
        let stopped = acquire().await;
        stopped.record_stop(1).unwrap();
        at_next_boot(stopped);
        assert_eq!(acquire().await.interruption, Interruption::Reboot);
        fs::write(&path, "\0\0\0").unwrap();
        assert_eq!(acquire().await.interruption, Interruption::PowerLoss);
    }

    #[tokio::test]
    async fn a_lock_file_that_is_replaced_meanwhile_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let first = StoreLock::acquire(dirs(dir.path())).await.unwrap();
        let path = first.dirs.store_lock();
        let second = tokio::spawn(StoreLock::acquire(dirs(dir.path())));
        tokio::task::yield_now().await;
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        drop(first);
        let second = second.await.unwrap().unwrap();
        assert_eq!(second.file.metadata().unwrap().ino(), fs::metadata(&path).unwrap().ino());
    }

    #[test]
    fn a_store_in_use_on_another_host_is_refused() {
        let path = Path::new("/home/ada/.local/state/banger/store.lock");
        let running = LockRecord {
            pid: 7,
            host: "alpha".to_owned(),
            boot_id: "a".to_owned(),
            inode: 1,
            runtime: "/r".into(),
            stopped: false,
            power_loss: false,
            running_vms: 0,
        };
        let stopped = |running_vms| LockRecord { stopped: true, running_vms, ..running.clone() };
        let refusal = |record: &LockRecord, host, boot_id| used_elsewhere(record, host, boot_id, path);
        for (record, user) in [
            (&running, "a bangerd (process 7) on host alpha"),
            (&stopped(1), "a VM on host alpha"),
            (&stopped(2), "2 VMs on host alpha"),
        ] {
            let error = refusal(record, "beta", "b").unwrap();
            assert!(error.message.ends_with(user), "{error}");
            // This host, before it was restarted; this boot, before the host was renamed.
            assert_eq!((refusal(record, "alpha", "b"), refusal(record, "beta", "a")), (None, None));
        }
        assert_eq!(refusal(&stopped(0), "beta", "b"), None);
    }
}
