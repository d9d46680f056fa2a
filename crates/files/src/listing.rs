//! Lists a directory as a stream of records, which show what has changed in it without its content.
//!
//! ```text
//! listing = magic, record …, end
//! record  = kind, path (length in 2 bytes), mode, size, modified, changed
//! ```
//!
//! Numbers are big-endian. A directory with its own `.git` is recorded, but not listed. Of the top-level `.git`, only
//! git's refs, `HEAD`, the index and the exclude patterns are listed.

use std::{
    io::{self, Read, Write},
    os::fd::AsFd,
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat},
    io::Errno,
};

use crate::{
    paths::safe_path,
    stream::{MAX_DEPTH, MAX_NAME, StreamError, fill, malformed},
    tree::{FileStat, Time},
};

const MAGIC: [u8; 4] = *b"bnl\x01";
const END: u8 = 0;

/// Maximum number of records of a listing: several times more than the largest repositories need.
pub const MAX_LISTED: usize = 2 << 20;

/// Maximum length of all paths of a listing together, in bytes. With that many records, a path has 128 bytes.
pub const MAX_LISTED_PATHS: usize = 256 << 20;

/// Maximum length of a path, in bytes: Linux's `PATH_MAX`.
const MAX_PATH: usize = 4096;

const TOO_LARGE: &str = "it lists more than 2 million files, or paths of more than 256 MiB; delete files that are not needed in the VM";

/// Listed parts of the top-level `.git`: single files, and directories with their content.
const GIT_FILES: &[&[u8]] = &[b".git/HEAD", b".git/index", b".git/packed-refs", b".git/info/exclude"];
const GIT_DIRS: &[&[u8]] = &[b".git/refs", b".git/info"];

/// The kind of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
    /// A nested repository, with everything in it.
    Repository,
    /// A directory that could not be read, or is nested too deep.
    Unreadable,
    /// A device, pipe or socket.
    Special,
}

impl Kind {
    const ALL: [Self; 5] = [Self::File, Self::Link, Self::Repository, Self::Unreadable, Self::Special];

    fn byte(self) -> u8 {
        match self {
            Self::File => 1,
            Self::Link => 2,
            Self::Repository => 3,
            Self::Unreadable => 4,
            Self::Special => 5,
        }
    }
}

/// A record of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedFile {
    /// Path below the listed directory.
    pub path: Vec<u8>,
    /// Kind of the file.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Size in bytes.
    pub size: u64,
    /// Modification time of the content.
    pub modified: Time,
    /// Time of the last change of content or metadata.
    pub changed: Time,
}

/// Lists the directory `root` to `out`. Files that disappear meanwhile are left out.
///
/// # Errors
/// Returns an error if `out` cannot be written or `root` cannot be read.
pub fn list(root: impl AsFd, mut out: impl Write) -> io::Result<()> {
    out.write_all(&MAGIC)?;
    let mut lister = Lister { out: &mut out };
    lister.directory(root, &mut Vec::new(), 0)?;
    out.write_all(&[END])?;
    out.flush()
}

struct Lister<'a, W> {
    out: &'a mut W,
}

impl<W: Write> Lister<'_, W> {
    fn directory(&mut self, fd: impl AsFd, path: &mut Vec<u8>, depth: usize) -> io::Result<()> {
        let mut names: Vec<Vec<u8>> = Vec::new();
        for entry in Dir::read_from(&fd)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(name);
            }
        }
        names.sort_unstable();
        let length = path.len();
        for name in names {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            self.entry(&fd, &name, path, depth)?;
            path.truncate(length);
        }
        Ok(())
    }

    fn entry(&mut self, dir: impl AsFd, name: &[u8], path: &mut Vec<u8>, depth: usize) -> io::Result<()> {
        let stat = match statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let stat = FileStat::of(&stat);
        if !is_listed(path, stat.file_type() == FileType::Directory) {
            return Ok(());
        }
        match stat.file_type() {
            FileType::RegularFile => self.record(path, Kind::File, &stat),
            FileType::Symlink => self.record(path, Kind::Link, &stat),
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match openat(&dir, name, flags, Mode::empty()) {
                    Ok(fd) if path != b".git" && statat(&fd, ".git", AtFlags::SYMLINK_NOFOLLOW).is_ok() => {
                        self.record(path, Kind::Repository, &stat)
                    }
                    Ok(fd) if depth < MAX_DEPTH && path.len() < MAX_PATH - MAX_NAME => {
                        self.directory(fd, path, depth + 1)
                    }
                    Err(Errno::NOENT) => Ok(()),
                    _ => self.record(path, Kind::Unreadable, &stat),
                }
            }
            _ => self.record(path, Kind::Special, &stat),
        }
    }

    fn record(&mut self, path: &[u8], kind: Kind, stat: &FileStat) -> io::Result<()> {
        let length = u16::try_from(path.len()).map_err(io::Error::other)?;
        self.out.write_all(&[kind.byte()])?;
        self.out.write_all(&length.to_be_bytes())?;
        self.out.write_all(path)?;
        self.out.write_all(&(stat.mode & 0o7777).to_be_bytes())?;
        self.out.write_all(&stat.size.to_be_bytes())?;
        self.out.write_all(&stat.modified.to_bytes())?;
        self.out.write_all(&stat.changed.to_bytes())
    }
}

/// Returns whether `path` is listed, or descended into if it is a directory.
fn is_listed(path: &[u8], is_dir: bool) -> bool {
    let Some(within) = path.strip_prefix(b".git") else { return true };
    match within.first() {
        None => true,
        Some(b'/') if is_dir => GIT_DIRS.iter().any(|dir| is_within(path, dir)),
        Some(b'/') => GIT_FILES.contains(&path) || is_within(path, b".git/refs"),
        Some(_) => true,
    }
}

fn is_within(path: &[u8], dir: &[u8]) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
}

/// Reads a possibly hostile listing: its paths are safe, and their number and length are limited.
#[derive(Debug)]
pub struct ListingReader<R> {
    input: R,
    remaining: usize,
    remaining_paths: usize,
}

impl<R: Read> ListingReader<R> {
    /// Starts reading a listing.
    ///
    /// # Errors
    /// Returns an error if `input` does not start with a listing's first bytes.
    pub fn new(input: R) -> Result<Self, StreamError> {
        Self::limited(input, MAX_LISTED, MAX_LISTED_PATHS)
    }

    fn limited(mut input: R, remaining: usize, remaining_paths: usize) -> Result<Self, StreamError> {
        let mut magic = [0; 4];
        fill(&mut input, &mut magic)?;
        if magic == MAGIC {
            Ok(Self { input, remaining, remaining_paths })
        } else {
            Err(malformed("invalid magic number"))
        }
    }

    /// Returns the next record, or `None` at the end.
    ///
    /// # Errors
    /// Returns an error if the listing is malformed, ends early or cannot be read.
    pub fn next_record(&mut self) -> Result<Option<ListedFile>, StreamError> {
        let [kind] = self.array()?;
        if kind == END {
            return Ok(None);
        }
        self.remaining = self.remaining.checked_sub(1).ok_or_else(|| malformed(TOO_LARGE))?;
        let kind = Kind::ALL.into_iter().find(|known| known.byte() == kind);
        let kind = kind.ok_or_else(|| malformed("unknown record kind"))?;
        let length = usize::from(u16::from_be_bytes(self.array()?));
        if length > MAX_PATH {
            return Err(malformed("path too long"));
        }
        self.remaining_paths =
            self.remaining_paths.checked_sub(length).ok_or_else(|| malformed(TOO_LARGE))?;
        let mut path = vec![0; length];
        fill(&mut self.input, &mut path)?;
        if !safe_path(&path) {
            return Err(malformed("invalid path"));
        }
        let mode = u32::from_be_bytes(self.array()?) & 0o7777;
        let size = u64::from_be_bytes(self.array()?);
        let (modified, changed) = (self.time()?, self.time()?);
        Ok(Some(ListedFile { path, kind, mode, size, modified, changed }))
    }

    fn time(&mut self) -> Result<Time, StreamError> {
        Time::from_bytes(&self.array::<12>()?).ok_or_else(|| malformed("invalid time"))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StreamError> {
        let mut array = [0; N];
        fill(&mut self.input, &mut array)?;
        Ok(array)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        os::unix::fs::symlink,
        path::Path,
    };

    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<ListedFile>, StreamError> {
        let mut reader = ListingReader::new(bytes)?;
        let mut all = Vec::new();
        while let Some(listed) = reader.next_record()? {
            all.push(listed);
        }
        Ok(all)
    }

    fn listed(dir: &Path) -> Vec<ListedFile> {
        let mut bytes = Vec::new();
        list(File::open(dir).unwrap(), &mut bytes).unwrap();
        read(&bytes).unwrap()
    }

    #[test]
    fn a_listing_contains_all_files_and_the_state_files_of_git() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        };
        for name in [
            "a/b",
            "z",
            ".gitignore",
            ".git/HEAD",
            ".git/config",
            ".git/index",
            ".git/refs/heads/x/y",
            ".git/objects/aa/bb",
            ".git/info/exclude",
            ".git/info/other",
            "inner/.git/HEAD",
            "inner/file",
        ] {
            write(name);
        }
        fs::create_dir(dir.path().join("empty")).unwrap();
        symlink("a", dir.path().join("link")).unwrap();
        let all = listed(dir.path());
        let kinds: Vec<_> =
            all.iter().map(|one| (String::from_utf8_lossy(&one.path).into_owned(), one.kind)).collect();
        let expected = [
            (".git/HEAD", Kind::File),
            (".git/index", Kind::File),
            (".git/info/exclude", Kind::File),
            (".git/refs/heads/x/y", Kind::File),
            (".gitignore", Kind::File),
            ("a/b", Kind::File),
            ("inner", Kind::Repository),
            ("link", Kind::Link),
            ("z", Kind::File),
        ];
        assert_eq!(kinds, expected.map(|(path, kind)| (path.to_owned(), kind)));
        let z = all.last().unwrap();
        assert_eq!((z.size, z.mode & 0o600), (1, 0o600));
        assert!(z.changed >= z.modified && z.modified.seconds > 0);
    }

    #[test]
    fn unsafe_paths_in_a_listing_are_rejected() {
        for path in [&b"../x"[..], b"/etc/passwd", b"", b"a//b", b"."] {
            let mut bytes = MAGIC.to_vec();
            bytes.push(1);
            bytes.extend_from_slice(&u16::try_from(path.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(path);
            bytes.extend_from_slice(&[0; 36]);
            bytes.push(END);
            assert!(matches!(read(&bytes), Err(StreamError::Malformed(_))), "{path:?}");
        }
        assert!(matches!(read(b"bnl\x01"), Err(StreamError::Truncated)));
    }

    /// A listing of one record without end, which counts the bytes that were read.
    struct Endless {
        records: Vec<u8>,
        read: usize,
    }

    impl Endless {
        fn new(path_length: usize) -> Self {
            let path = [&*b"x/".repeat(path_length / 2), b"x"].concat();
            let length = u16::try_from(path.len()).unwrap().to_be_bytes();
            let record = [&[1], &length[..], &path, &[0; 36]].concat();
            Self { records: record.repeat(1000), read: 0 }
        }
    }

    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let rest = &self.records[self.read % self.records.len()..];
            let count = buffer.len().min(rest.len());
            buffer[..count].copy_from_slice(&rest[..count]);
            self.read += count;
            Ok(count)
        }
    }

    #[test]
    fn an_endless_listing_is_rejected_at_its_limits() {
        let (max_records, max_paths) = (5000, 100_000);
        for path_length in [1, 500] {
            let mut input = Endless::new(path_length);
            let mut reader = ListingReader::limited(MAGIC.chain(&mut input), max_records, max_paths).unwrap();
            let mut records = 0;
            let error = loop {
                match reader.next_record() {
                    Ok(record) => records += usize::from(record.is_some()),
                    Err(error) => break error,
                }
            };
            assert!(error.to_string().contains("delete files"), "{error}");
            assert!(records <= max_records);
            let header = 3 + 36;
            assert!(input.read <= (records + 1) * header + max_paths, "{}", input.read);
        }
    }

    proptest! {
        #[test]
        fn decoding_any_bytes_returns_a_listing_or_an_error(bytes in prop::collection::vec(0u8..6, 0..400)) {
            let _ = read(&[&MAGIC[..], &bytes].concat());
        }
    }
}
