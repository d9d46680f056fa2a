//! Access to the files below a directory by path, without following any link.

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::{
    fs::{
        AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, open, openat, openat2, readlinkat,
        statat,
    },
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
        match self.lookup(path) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the metadata of `path`, which exists.
    ///
    /// # Errors
    /// Returns an error if nothing is there; the kernel's `ELOOP` if a link leads there.
    pub fn stat_existing(&self, path: &[u8]) -> io::Result<FileStat> {
        Ok(self.lookup(path)?)
    }

    /// Returns the names in the directory at `path`, in byte order.
    ///
    /// # Errors
    /// Returns an error if it is not a directory, or cannot be read.
    pub fn names(&self, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let dir = self.within(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW)?;
        let mut names = Vec::new();
        for entry in Dir::new(dir)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
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

    fn lookup(&self, path: &[u8]) -> rustix::io::Result<FileStat> {
        Ok(FileStat::of(&fstat(self.within(path, OFlags::PATH | OFlags::NOFOLLOW)?)?))
    }

    fn within(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        match self.open_beneath(path, flags) {
            // A kernel before 5.6, or a sandbox that does not know the system call.
            Err(Errno::NOSYS | Errno::PERM) => self.open_by_component(path, flags),
            opened => opened,
        }
    }

    fn open_beneath(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    /// Opens `path` as [`open_beneath`](Self::open_beneath) does, with a system call for each component.
    fn open_by_component(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        if path.starts_with(b"/") || path.split(|byte| *byte == b'/').any(|name| name == b"..") {
            return Err(Errno::XDEV);
        }
        let (parents, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (path.get(..slash).unwrap_or_default(), path.get(slash + 1..).unwrap_or_default()),
            None => (&b""[..], path),
        };
        let mut opened = None;
        for parent in parents.split(|byte| *byte == b'/').filter(|parent| !parent.is_empty()) {
            let dir = opened.as_ref().unwrap_or(&self.root);
            let enter = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            opened = Some(openat(dir, parent, enter, Mode::empty()).map_err(|error| match error {
                Errno::NOTDIR if is_link(dir, parent) => Errno::LOOP,
                error => error,
            })?);
        }
        let dir = opened.as_ref().unwrap_or(&self.root);
        openat(dir, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    }
}

fn is_link(dir: &OwnedFd, name: &[u8]) -> bool {
    statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
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
    fn opening_by_component_follows_the_same_rules() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("tree/in/deep")).unwrap();
        fs::write(at("tree/in/deep/file"), "inside").unwrap();
        fs::write(at("file"), "outside").unwrap();
        symlink("in", at("tree/link")).unwrap();
        symlink("../file", at("tree/in/file")).unwrap();
        symlink("/proc/self/root", at("tree/magic")).unwrap();
        let tree = Tree::open(&at("tree")).unwrap();
        let stat_of = |fd: rustix::io::Result<OwnedFd>| fd.map(|fd| FileStat::of(&fstat(fd).unwrap()).inode);
        let (directory, path) = (OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW, OFlags::PATH);
        for flags in [OFlags::RDONLY, directory, path | OFlags::NOFOLLOW] {
            for name in [
                ".",
                "in",
                "in/deep/file",
                "in/./deep",
                "in//deep",
                "link/deep/file",
                "link/deep",
                "in/file",
                "none",
                "in/none/x",
                "in/deep/file/x",
                "../file",
                "in/../../file",
                "/etc/passwd",
                "magic/etc",
                "link",
            ] {
                let (beneath, by_component) = (
                    stat_of(tree.open_beneath(name.as_bytes(), flags)),
                    stat_of(tree.open_by_component(name.as_bytes(), flags)),
                );
                assert_eq!(beneath.is_ok(), by_component.is_ok(), "{name} {flags:?}");
                if beneath.is_ok() || name == "link/deep" {
                    assert_eq!(beneath, by_component, "{name} {flags:?}");
                }
            }
        }
    }

    #[test]
    fn names_are_listed_without_following_links() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("tree/b/in")).unwrap();
        fs::create_dir(dir.path().join("tree/a")).unwrap();
        symlink("b", dir.path().join("tree/c")).unwrap();
        let tree = Tree::open(&dir.path().join("tree")).unwrap();
        assert_eq!(tree.names(b".").unwrap(), [b"a", b"b", b"c"]);
        assert_eq!(tree.names(b"b").unwrap(), [b"in"]);
        assert!(tree.names(b"c").is_err() && tree.names(b"c/in").is_err());
        let error = tree.stat_existing(b"c/in").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::LOOP.raw_os_error()));
        assert_eq!(tree.stat_existing(b"none").unwrap_err().kind(), io::ErrorKind::NotFound);
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
