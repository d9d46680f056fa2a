//! Reads files of a repository, with a size limit and without following links.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, openat, statat},
    io::Errno,
};

/// Maximum size of a file, in bytes.
pub(super) const MAX_FILE: u64 = 1 << 20;

/// Errors of reading a file.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("its path contains a symbolic link, and links are not followed")]
    Link,
    #[error("it is not a regular file")]
    NotAFile,
    #[error("it is longer than {} MiB", MAX_FILE >> 20)]
    TooLong,
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// A repository's root directory.
#[derive(Debug)]
pub(super) struct RepositoryDir(OwnedFd);

impl RepositoryDir {
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(openat(CWD, root, flags, Mode::empty())?))
    }

    /// Reads the file at `path`, whose components are separated by `/`. Returns `None` if it does not exist.
    pub(super) fn read(&self, path: &str) -> Result<Option<Vec<u8>>, ReadError> {
        let (parents, name) =
            path.rsplit_once('/').map_or((None, path), |(parents, name)| (Some(parents), name));
        let mut inner = None;
        for dir in parents.into_iter().flat_map(|parents| parents.split('/')) {
            let outer = inner.as_ref().unwrap_or(&self.0).as_fd();
            match enter(outer, dir)? {
                Some(fd) => inner = Some(fd),
                None => return Ok(None),
            }
        }
        read(inner.as_ref().unwrap_or(&self.0).as_fd(), name)
    }
}

fn enter(dir: BorrowedFd<'_>, name: &str) -> Result<Option<OwnedFd>, ReadError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(dir, name, flags, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        // If a file has the directory's name, our file does not exist. A link might lead to it.
        Err(Errno::NOTDIR | Errno::LOOP) if is_link(dir, name) => Err(ReadError::Link),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(io::Error::from(error).into()),
    }
}

fn is_link(dir: BorrowedFd<'_>, name: &str) -> bool {
    statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
}

fn read(dir: BorrowedFd<'_>, name: &str) -> Result<Option<Vec<u8>>, ReadError> {
    // Do not block on a pipe without a writer, and do not acquire a controlling terminal.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match openat(dir, name, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => return Err(ReadError::Link),
        // A socket, or a device that does not exist.
        Err(Errno::NXIO | Errno::NODEV) => return Err(ReadError::NotAFile),
        Err(error) => return Err(io::Error::from(error).into()),
    };
    if !file.metadata()?.is_file() {
        return Err(ReadError::NotAFile);
    }
    let mut bytes = Vec::new();
    // One byte more than allowed, because a file can grow while it is read.
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE { Err(ReadError::TooLong) } else { Ok(Some(bytes)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn existing_files_are_read_and_missing_ones_are_none() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/c"), "deep").unwrap();
        fs::write(dir.path().join("f"), "").unwrap();
        let dir = RepositoryDir::open(dir.path()).unwrap();
        assert_eq!(dir.read("a/b/c").unwrap().unwrap(), b"deep");
        assert_eq!(dir.read("f").unwrap().unwrap(), b"");
        for missing in ["g", "g/h", "f/h", "a/g"] {
            assert!(dir.read(missing).unwrap().is_none(), "{missing}");
        }
    }

    #[test]
    fn links_pipes_directories_and_long_files_are_rejected() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("file"), "content").unwrap();
        fs::create_dir(path("dir")).unwrap();
        fs::write(path("dir/file"), "content").unwrap();
        symlink("file", path("link")).unwrap();
        symlink("nowhere", path("dangling")).unwrap();
        symlink("dir", path("linked")).unwrap();
        rustix::fs::mknodat(CWD, path("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        fs::write(path("most"), vec![b'a'; MAX_FILE as usize]).unwrap();
        fs::write(path("long"), vec![b'a'; MAX_FILE as usize + 1]).unwrap();
        let dir = RepositoryDir::open(dir.path()).unwrap();
        for name in ["link", "dangling", "linked/file"] {
            assert!(matches!(dir.read(name), Err(ReadError::Link)), "{name}");
        }
        for name in ["pipe", "dir"] {
            assert!(matches!(dir.read(name), Err(ReadError::NotAFile)), "{name}");
        }
        assert_eq!(dir.read("most").unwrap().unwrap().len() as u64, MAX_FILE);
        assert!(matches!(dir.read("long"), Err(ReadError::TooLong)));
    }
}
