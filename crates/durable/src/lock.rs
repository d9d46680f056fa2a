//! Locks between processes, which end with their process.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Maximum length of a lock file's content, in bytes: a process id.
const MAX_CONTENT: u64 = 32;

/// A lock on a file that exists only for it. Dropping it releases the lock.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock at `path`, whose directory must exist. Returns `None` if another process holds it.
    ///
    /// # Errors
    /// Returns an error if the file cannot be created or locked.
    pub fn try_acquire(path: &Path) -> io::Result<Option<Self>> {
        loop {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600);
            let mut file = options.open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // The previous holder may have removed the file meanwhile.
            if is_at(&file, path)? {
                file.set_len(0)?;
                file.write_all(std::process::id().to_string().as_bytes())?;
                return Ok(Some(Self { file, path: path.to_owned() }));
            }
        }
    }

    /// Returns the id of the process that holds the lock at `path`, as far as it is known.
    pub fn holder(path: &Path) -> Option<u32> {
        let mut content = String::new();
        File::open(path).ok()?.take(MAX_CONTENT).read_to_string(&mut content).ok()?;
        content.parse().ok()
    }

    /// Removes the lock's file and releases the lock.
    ///
    /// # Errors
    /// Returns an error if the file cannot be removed.
    pub fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // At once, even if a child process that is being started still has the file.
        let _ = self.file.unlock();
    }
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let meta = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(at) => Ok((at.dev(), at.ino()) == (meta.dev(), meta.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_has_one_holder_that_others_can_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert_eq!(Lock::holder(&path), None);
        let lock = Lock::try_acquire(&path).unwrap().unwrap();
        assert!(Lock::try_acquire(&path).unwrap().is_none());
        assert_eq!(Lock::holder(&path), Some(std::process::id()));
        drop(lock);
        let lock = Lock::try_acquire(&path).unwrap().unwrap();
        lock.remove().unwrap();
        assert!(!path.exists());
        assert!(Lock::try_acquire(&path).unwrap().is_some());
    }

    #[test]
    fn threads_exclude_each_other_even_if_the_file_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, counter) = (dir.path().join("lock"), dir.path().join("counter"));
        fs::write(&counter, "0").unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..50 {
                        let lock = loop {
                            if let Some(lock) = Lock::try_acquire(&path).unwrap() {
                                break lock;
                            }
                            std::thread::yield_now();
                        };
                        let count: u32 = fs::read_to_string(&counter).unwrap().parse().unwrap();
                        fs::write(&counter, (count + 1).to_string()).unwrap();
                        if round % 2 == 0 {
                            lock.remove().unwrap();
                        }
                    }
                });
            }
        });
        assert_eq!(fs::read_to_string(&counter).unwrap(), "200");
    }
}
