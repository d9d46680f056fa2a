//! The files of a folder by their paths, with no link ever gone through.

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags, Stat, fstat, open, openat2, readlinkat},
    io::Errno,
};

/// A moment, by the clock of the system that it was on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time {
    /// Seconds since the Unix epoch.
    pub seconds: i64,
    /// And nanoseconds, less than a second of them.
    pub nanoseconds: u32,
}

impl Time {
    /// This moment.
    pub fn now() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { seconds: i64::try_from(now.as_secs()).unwrap_or(0), nanoseconds: now.subsec_nanos() }
    }

    /// As bytes: the seconds, then the nanoseconds, both big-endian.
    pub fn to_bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        let (seconds, nanoseconds) = bytes.split_at_mut(8);
        seconds.copy_from_slice(&self.seconds.to_be_bytes());
        nanoseconds.copy_from_slice(&self.nanoseconds.to_be_bytes());
        bytes
    }

    /// From such bytes; `None` when they are no time.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (seconds, nanoseconds) = bytes.split_first_chunk::<8>()?;
        let nanoseconds = u32::from_be_bytes(nanoseconds.try_into().ok()?);
        (nanoseconds < 1_000_000_000).then_some(Self { seconds: i64::from_be_bytes(*seconds), nanoseconds })
    }
}

/// A file's metadata, as `lstat` returns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStat {
    /// Its type and permissions, as `st_mode` has them.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// When its content was last modified.
    pub modified: Time,
    /// When anything of it last changed.
    pub changed: Time,
    /// Its number in its file system.
    pub inode: u64,
}

impl FileStat {
    /// From the kernel's record.
    pub fn of(stat: &Stat) -> Self {
        Self {
            mode: stat.st_mode,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified: time(stat.st_mtime, stat.st_mtime_nsec),
            changed: time(stat.st_ctime, stat.st_ctime_nsec),
            inode: stat.st_ino,
        }
    }

    /// What kind of thing it is.
    pub fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }
}

fn time(seconds: i64, nanoseconds: impl TryInto<u32>) -> Time {
    Time { seconds, nanoseconds: nanoseconds.try_into().unwrap_or(0) }
}

/// A folder, and what is in it.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
}

impl Tree {
    /// The folder at `path`.
    ///
    /// # Errors
    /// When there is none, or it may not be entered.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { root: open(path, flags, Mode::empty())? })
    }

    /// What is at `path`; `None` when there is nothing, or a link or a file where a folder would have to be.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn look(&self, path: &[u8]) -> io::Result<Option<FileStat>> {
        match self.within(path, OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(fd) => Ok(Some(FileStat::of(&fstat(fd)?))),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The regular file at `path`, and what it is like.
    ///
    /// # Errors
    /// When it cannot be opened, or is none.
    pub fn file(&self, path: &[u8]) -> io::Result<(File, FileStat)> {
        // What has come in its place must neither be waited for nor become our terminal.
        let fd = self.within(path, OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        let found = FileStat::of(&fstat(&fd)?);
        if found.file_type() != FileType::RegularFile {
            return Err(io::Error::other("it is no file any more"));
        }
        Ok((fd.into(), found))
    }

    /// Where the link at `path` leads to.
    ///
    /// # Errors
    /// When it cannot be read, or is none.
    pub fn link(&self, path: &[u8]) -> io::Result<Vec<u8>> {
        let link = self.within(path, OFlags::PATH | OFlags::NOFOLLOW)?;
        Ok(readlinkat(&link, "", Vec::new())?.into_bytes())
    }

    fn within(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn no_link_is_gone_through() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("tree/in")).unwrap();
        fs::write(at("tree/in/file"), "inside").unwrap();
        fs::write(at("file"), "outside").unwrap();
        symlink("..", at("tree/up")).unwrap();
        symlink("../file", at("tree/file")).unwrap();
        let tree = Tree::open(&at("tree")).unwrap();
        let (_, found) = tree.file(b"in/file").unwrap();
        assert_eq!((found.size, found.file_type()), (6, FileType::RegularFile));
        assert_eq!(tree.look(b"in/file").unwrap(), Some(found));
        assert_eq!(tree.look(b"file").unwrap().map(|found| found.file_type()), Some(FileType::Symlink));
        assert_eq!(tree.link(b"file").unwrap(), b"../file");
        for nothing in [&b"up/file"[..], b"in/file/x", b"none", b"none/x"] {
            assert_eq!(tree.look(nothing).unwrap(), None, "{nothing:?}");
        }
        for outside in [&b"file"[..], b"up/file", b"../file", b"/etc/passwd", b"up"] {
            assert!(tree.file(outside).is_err(), "{outside:?}");
        }
        assert!(tree.look(b"../file").is_err());
    }

    #[test]
    fn times_survive_their_bytes() {
        let time = Time { seconds: -5, nanoseconds: 999_999_999 };
        assert_eq!(Time::from_bytes(&time.to_bytes()), Some(time));
        assert_eq!(Time::from_bytes(&[255; 12]), None);
        assert_eq!(Time::from_bytes(&[0; 11]), None);
        assert!(Time::now() > time);
    }
}
