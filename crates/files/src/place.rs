//! Places a complete tree where nothing was, and changes an existing tree.

use std::{
    fs,
    io::{self, Read},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, mkdirat, openat, renameat},
    io::Errno,
};

use crate::{
    destination::open,
    error::{UnpackError, failed},
    unpack::{UnpackMode, Unpacked, unpack_within},
};

/// Name of the staging directory next to the target. Its parent holds at most one, whose creator holds the lock.
const STAGING: &str = ".banger-staging";

/// Unpacks `stream`, of single paths, as `target`, which appears only when it is complete.
///
/// Missing parent directories are created. `target` must not exist, or must be an empty directory.
///
/// # Errors
/// Returns the errors of [`unpack`](crate::unpack), `Occupied` if `target` exists, and `Busy` if another process
/// holds the lock.
pub fn place(stream: impl Read, target: &Path, done: &mut Unpacked) -> Result<(), UnpackError> {
    let parent = LockedDir::lock_parent(target, true)?;
    match fs::symlink_metadata(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(target)(error)),
        Ok(meta) if meta.is_dir() && is_empty(target).map_err(failed(target))? => {}
        Ok(_) => return Err(UnpackError::Occupied(target.to_owned())),
    }
    let staging = parent.path.join(STAGING);
    // Left by a killed process.
    remove(&staging)?;
    let result = parent.stage().map_err(failed(&staging)).and_then(|fd| {
        unpack_within(stream, (fd, &staging), UnpackMode::New, done)?;
        parent.rename(target).map_err(failed(target))
    });
    result.or_else(|error| {
        remove(&staging)?;
        Err(error)
    })
}

/// Applies `stream`, of single paths and removals, to the directory `target`. Each file is replaced as a whole or
/// stays.
///
/// # Errors
/// Returns the errors of [`unpack`](crate::unpack), and `Busy` if another process holds the lock.
pub fn change(stream: impl Read, target: &Path, done: &mut Unpacked) -> Result<(), UnpackError> {
    let _lock = LockedDir::lock_parent(target, false)?;
    unpack_within(stream, (open(target)?, target), UnpackMode::Update, done)
}

/// The parent directory of a tree, locked.
struct LockedDir {
    fd: OwnedFd,
    path: PathBuf,
}

impl LockedDir {
    fn lock_parent(target: &Path, create: bool) -> Result<Self, UnpackError> {
        let path = target.parent().filter(|_| target.file_name().is_some());
        let path = path.ok_or_else(|| UnpackError::Occupied(target.to_owned()))?;
        if create {
            fs::create_dir_all(path).map_err(failed(path))?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| match error {
            Errno::NOENT => UnpackError::NoDirectory(target.to_owned()),
            _ => failed(path)(error.into()),
        })?;
        match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { fd, path: path.to_owned() }),
            Err(Errno::WOULDBLOCK) => Err(UnpackError::Busy(path.to_owned())),
            Err(error) => Err(failed(path)(error.into())),
        }
    }

    fn stage(&self) -> io::Result<OwnedFd> {
        mkdirat(&self.fd, STAGING, Mode::from_raw_mode(0o755))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(&self.fd, STAGING, flags, Mode::empty())?)
    }

    fn rename(&self, target: &Path) -> io::Result<()> {
        let name = target.file_name().unwrap_or_default();
        // The rename replaces an empty directory, and fails for anything else.
        Ok(renameat(&self.fd, STAGING, &self.fd, name)?)
    }
}

impl Drop for LockedDir {
    fn drop(&mut self) {
        // Closing is not enough: a process that another thread is starting has the descriptor until it execs.
        let _ = flock(&self.fd, FlockOperation::Unlock);
    }
}

fn is_empty(dir: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(dir)?.next().is_none())
}

fn remove(staging: &Path) -> Result<(), UnpackError> {
    match fs::remove_dir_all(staging) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(staging)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PathWriter, Time};

    const TIME: Time = Time { seconds: 7, nanoseconds: 8 };

    fn stream(fill: impl Fn(&mut PathWriter<Vec<u8>>)) -> Vec<u8> {
        let mut writer = PathWriter::new(Vec::new()).unwrap();
        fill(&mut writer);
        writer.finish().unwrap()
    }

    fn tree() -> Vec<u8> {
        stream(|out| {
            out.file(b"a/b/file", 0o755, TIME, &mut &b"text"[..]).unwrap().unwrap();
            out.link(b"a/link", TIME, b"b/file".to_vec()).unwrap();
            out.directory(b"empty", 0o755).unwrap();
            out.file(b"z", 0o644, TIME, &mut &b"z"[..]).unwrap().unwrap();
        })
    }

    #[test]
    fn a_tree_is_placed_completely_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("src/deep/repo");
        for cut in [1, 9, tree().len() - 2] {
            assert!(place(&tree()[..cut], &target, &mut Unpacked::default()).is_err());
            assert!(is_empty(target.parent().unwrap()).unwrap(), "{cut}");
        }
        fs::create_dir_all(dir.path().join("src/deep").join(STAGING).join("left")).unwrap();
        fs::create_dir(&target).unwrap();
        let mut done = Unpacked::default();
        place(&*tree(), &target, &mut done).unwrap();
        assert_eq!(done.files, 3);
        assert_eq!(fs::read_to_string(target.join("a/link")).unwrap(), "text");
        assert!(target.join("empty").is_dir());
        assert_eq!(fs::read_dir(target.parent().unwrap()).unwrap().count(), 1);
        let again = place(&*tree(), &target, &mut done).unwrap_err();
        assert!(matches!(again, UnpackError::Occupied(_)), "{again}");
        assert!(matches!(place(&*tree(), Path::new("/"), &mut done), Err(UnpackError::Occupied(_))));
    }

    #[test]
    fn a_change_replaces_and_removes_only_the_paths_it_names() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("repo");
        let mut done = Unpacked::default();
        place(&*tree(), &target, &mut done).unwrap();
        fs::write(target.join("a/b/mine"), "mine").unwrap();
        let changes = stream(|out| {
            out.remove(b"a/b/file").unwrap();
            out.remove(b"a/b").unwrap();
            out.remove(b"a/none").unwrap();
            out.remove(b"empty").unwrap();
            out.file(b"empty", 0o644, TIME, &mut &b"now a file"[..]).unwrap().unwrap();
            out.file(b"z", 0o644, TIME, &mut &b"new"[..]).unwrap().unwrap();
        });
        change(&*changes, &target, &mut done).unwrap();
        assert!(!target.join("a/b/file").exists());
        assert_eq!(fs::read_to_string(target.join("a/b/mine")).unwrap(), "mine");
        assert_eq!(fs::read_to_string(target.join("empty")).unwrap(), "now a file");
        assert_eq!(fs::read_to_string(target.join("z")).unwrap(), "new");
        let missing = change(&*changes, &dir.path().join("none/x"), &mut done).unwrap_err();
        assert!(matches!(missing, UnpackError::NoDirectory(_)), "{missing}");
        // A stream to place may not contain removals.
        assert!(place(&*changes, &dir.path().join("other"), &mut done).is_err());
    }

    #[test]
    fn placing_fails_while_the_lock_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("repo");
        let lock = LockedDir::lock_parent(&target, true).unwrap();
        let busy = place(&*tree(), &target, &mut Unpacked::default()).unwrap_err();
        assert!(matches!(busy, UnpackError::Busy(_)), "{busy}");
        drop(lock);
        place(&*tree(), &target, &mut Unpacked::default()).unwrap();
    }

    #[test]
    fn an_inherited_descriptor_does_not_hold_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("repo");
        let lock = LockedDir::lock_parent(&target, true).unwrap();
        let _inherited = lock.fd.try_clone().unwrap();
        drop(lock);
        place(&*tree(), &target, &mut Unpacked::default()).unwrap();
    }

    #[test]
    fn unsafe_paths_are_rejected() {
        let mut out = PathWriter::new(Vec::new()).unwrap();
        for path in [&b"../x"[..], b"/x", b"a//b", b"a/", b"", b".", b"a\0", &[b'x'; 256]] {
            assert!(out.remove(path).is_err(), "{path:?}");
        }
        assert!(out.remove("d/".repeat(256).as_bytes()).is_err());
    }
}
