//! Access to the files below a directory by path, without following any link.

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

/// A time, from the clock of the system that recorded it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time {
    /// Seconds since the Unix epoch.
    pub seconds: i64,
    /// Nanoseconds, less than a second.
    pub nanoseconds: u32,
}

impl Time {
    /// Returns the current time.
    pub fn now() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { seconds: i64::try_from(now.as_secs()).unwrap_or(0), nanoseconds: now.subsec_nanos() }
    }

    /// Encodes the seconds, then the nanoseconds, both big-endian.
    pub fn to_bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        let (seconds, nanoseconds) = bytes.split_at_mut(8);
        seconds.copy_from_slice(&self.seconds.to_be_bytes());
        nanoseconds.copy_from_slice(&self.nanoseconds.to_be_bytes());
        bytes
    }

    /// Decodes such bytes. Returns `None` if they are no valid time.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (seconds, nanoseconds) = bytes.split_first_chunk::<8>()?;
        let nanoseconds = u32::from_be_bytes(nanoseconds.try_into().ok()?);
        (nanoseconds < 1_000_000_000).then_some(Self { seconds: i64::from_be_bytes(*seconds), nanoseconds })
    }
}

/// A file's metadata, as `lstat` returns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStat {
    /// File type and permissions, as in `st_mode`.
    pub mode: u32,
    /// Size in bytes.
    pub size: u64,
    /// Modification time of the content.
    pub modified: Time,
    /// Time of the last change of content or metadata.
    pub changed: Time,
    /// Inode number.
    pub inode: u64,
}

impl FileStat {
    /// Converts the kernel's record.
    pub fn of(stat: &Stat) -> Self {
        Self {
            mode: stat.st_mode,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified: time(stat.st_mtime, stat.st_mtime_nsec),
            changed: time(stat.st_ctime, stat.st_ctime_nsec),
            inode: stat.st_ino,
        }
    }

    /// Returns the file type.
    pub fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }
}

fn time(seconds: i64, nanoseconds: impl TryInto<u32>) -> Time {
    Time { seconds, nanoseconds: nanoseconds.try_into().unwrap_or(0) }
}

/// An open directory, whose files are accessed by path.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
}

impl Tree {
    /// Opens the directory at `path`.
    ///
    /// # Errors
    /// Returns an error if it does not exist, or may not be entered.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { root: open(path, flags, Mode::empty())? })
    }

    /// Returns the metadata of `path`, or `None` if nothing is there or a component is not a directory.
    ///
    /// # Errors
    /// Returns an error if the metadata cannot be read.
    pub fn stat(&self, path: &[u8]) -> io::Result<Option<FileStat>> {
        match self.within(path, OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(fd) => Ok(Some(FileStat::of(&fstat(fd)?))),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens the regular file at `path`, and returns it with its metadata.
    ///
    /// # Errors
    /// Returns an error if it cannot be opened, or is not a regular file.
    pub fn file(&self, path: &[u8]) -> io::Result<(File, FileStat)> {
        // A file that was replaced meanwhile must neither block nor become our controlling terminal.
        let fd = self.within(path, OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        let stat = FileStat::of(&fstat(&fd)?);
        if stat.file_type() != FileType::RegularFile {
            return Err(io::Error::other("it is no longer a regular file"));
        }
        Ok((fd.into(), stat))
    }

    /// Returns the target of the link at `path`.
    ///
    /// # Errors
    /// Returns an error if it cannot be read, or is not a link.
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
    fn symbolic_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("tree/in")).unwrap();
        fs::write(at("tree/in/file"), "inside").unwrap();
        fs::write(at("file"), "outside").unwrap();
        symlink("..", at("tree/up")).unwrap();
        symlink("../file", at("tree/file")).unwrap();
        let tree = Tree::open(&at("tree")).unwrap();
        let (_, stat) = tree.file(b"in/file").unwrap();
        assert_eq!((stat.size, stat.file_type()), (6, FileType::RegularFile));
        assert_eq!(tree.stat(b"in/file").unwrap(), Some(stat));
        assert_eq!(tree.stat(b"file").unwrap().map(|stat| stat.file_type()), Some(FileType::Symlink));
        assert_eq!(tree.link(b"file").unwrap(), b"../file");
        for missing in [&b"up/file"[..], b"in/file/x", b"none", b"none/x"] {
            assert_eq!(tree.stat(missing).unwrap(), None, "{missing:?}");
        }
        for outside in [&b"file"[..], b"up/file", b"../file", b"/etc/passwd", b"up"] {
            assert!(tree.file(outside).is_err(), "{outside:?}");
        }
        assert!(tree.stat(b"../file").is_err());
    }

    #[test]
    fn times_are_encoded_and_decoded_without_loss() {
        let time = Time { seconds: -5, nanoseconds: 999_999_999 };
        assert_eq!(Time::from_bytes(&time.to_bytes()), Some(time));
        assert_eq!(Time::from_bytes(&[255; 12]), None);
        assert_eq!(Time::from_bytes(&[0; 11]), None);
        assert!(Time::now() > time);
    }
}
