//! What is known of a workspace on the host: what was sent, and how it was there then. By it is told what has changed
//! since, on either side. One file a workspace, in the user's state.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use banger_files::{FileStat, Kind, Listed, Time};
use serde::{Deserialize, Serialize};

use crate::{
    Repository, WorkspaceError,
    error::{reading, writing},
    git::read_file,
    guest_git::CheckedOut,
};

const MAGIC: &[u8; 4] = b"bnw\x01";

/// A file as it was placed in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    /// As git has it: 0o100644, 0o100755 or 0o120000.
    pub(crate) mode: u32,
    pub(crate) size: u64,
    pub(crate) modified: Time,
    /// The file on the host's disk, as it was then, if it came from there.
    pub(crate) host: Option<FileStat>,
    /// Its blob, if it was as staged.
    pub(crate) id: Option<String>,
    /// By the guest's clock: what has changed later is not as it was placed.
    pub(crate) placed: Time,
}

impl Placed {
    /// Whether the guest's file is still as it was placed.
    pub(crate) fn is(&self, listed: &Listed) -> bool {
        listed.changed <= self.placed && self.is_like(listed)
    }

    /// Whether the guest's file looks as this one would.
    pub(crate) fn is_like(&self, listed: &Listed) -> bool {
        let kind = if self.mode == LINK { Kind::Link } else { Kind::File };
        listed.kind == kind
            && listed.size == self.size
            && listed.modified == self.modified
            && (kind == Kind::Link || (listed.mode & 0o100 != 0) == (self.mode == PROGRAM))
    }
}

/// Modes as git has them.
pub(crate) const FILE: u32 = 0o100_644;
pub(crate) const PROGRAM: u32 = 0o100_755;
pub(crate) const LINK: u32 = 0o120_000;

/// What has been brought in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The refs in the host's repository, with the commits that they are at now.
    pub refs: Vec<(String, String)>,
    /// Whether there is work that is in no commit; it is in the one called `uncommitted`.
    pub uncommitted: bool,
    /// The refs by which there is still what another VM of that name, or a branch that is gone, has left.
    pub replaced: BTreeSet<String>,
}

/// What is known of a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub(crate) known: Known,
    /// The files, by path.
    pub(crate) files: BTreeMap<Vec<u8>, Placed>,
    /// The index as it was sent.
    pub(crate) index: Option<Vec<u8>>,
}

/// What is known of the whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    guest: Vec<u8>,
    pub(crate) root: PathBuf,
    /// Bytes of an object's id.
    pub(crate) id_length: usize,
    /// What was checked out when it was sent last.
    pub(crate) out: CheckedOut,
    /// All commits that were sent.
    pub(crate) commits: BTreeSet<String>,
    /// Those of them whose parents were not.
    pub(crate) shallow: BTreeSet<String>,
    /// Blobs that were sent for being staged.
    pub(crate) staged: BTreeSet<String>,
    /// Refs of the host's at which its work was put, with the commits that they were at then.
    #[serde(default)]
    pub(crate) pulled: BTreeMap<String, String>,
}

/// What a record's file begins with.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    known: Known,
    /// Bytes of the index, if there is one.
    index: Option<usize>,
    files: usize,
}

impl Record {
    /// Of a workspace at `guest`, from the repository at `root`, in which nothing is known to be.
    pub(crate) fn new(guest: &[u8], root: &Path, id_length: usize) -> Self {
        let known = Known {
            guest: guest.to_vec(),
            root: root.to_owned(),
            id_length,
            out: CheckedOut::default(),
            commits: BTreeSet::new(),
            shallow: BTreeSet::new(),
            staged: BTreeSet::new(),
            pulled: BTreeMap::new(),
        };
        Self { known, files: BTreeMap::new(), index: None }
    }

    /// Of a workspace at `guest` that is a copy of the folder of `repository`, of whose files nothing is known.
    pub fn of_copy(guest: &[u8], repository: &Repository) -> Self {
        let mut record = Self::new(guest, repository.root(), repository.id_length());
        record.known.out = CheckedOut {
            commit: repository.head.clone(),
            branch: repository.branch.clone(),
            ..CheckedOut::default()
        };
        record
    }

    /// Whether all that is `listed` is as it was sent, as far as that can be told without looking into files: nothing is
    /// new, changed or gone. Git may have looked at the files anew.
    pub fn is_as_sent(&self, listed: &[Listed]) -> bool {
        let there: BTreeSet<_> = listed.iter().map(|file| file.path.as_slice()).collect();
        let of_others = |path: &[u8]| path == b".git/index" || path.starts_with(b".git/") && !is_state(path);
        listed
            .iter()
            .filter(|file| !of_others(&file.path))
            .all(|file| self.files.get(&file.path).is_some_and(|sent| sent.is(file)))
            && self.files.keys().filter(|path| !of_others(path)).all(|path| there.contains(path.as_slice()))
    }

    /// Notes where its work has been put.
    pub fn note_pulled(&mut self, pulled: &Pulled) {
        self.known.pulled = pulled.refs.iter().cloned().collect();
    }

    /// Its folder in the guest.
    pub fn guest(&self) -> &[u8] {
        &self.known.guest
    }

    /// The folder of the repository that it came from.
    pub fn root(&self) -> &Path {
        &self.known.root
    }

    /// The commit that was checked out when it was sent last.
    pub fn commit(&self) -> Option<&str> {
        self.known.out.commit.as_deref()
    }

    fn write(&self, mut out: impl Write) -> io::Result<()> {
        let index = self.index.as_ref().map(Vec::len);
        let head = serde_json::to_vec(&Head { known: self.known.clone(), index, files: self.files.len() })?;
        out.write_all(MAGIC)?;
        out.write_all(&u32::try_from(head.len()).map_err(io::Error::other)?.to_be_bytes())?;
        out.write_all(&head)?;
        out.write_all(self.index.as_deref().unwrap_or_default())?;
        for (path, file) in &self.files {
            write_file(&mut out, path, file)?;
        }
        out.flush()
    }

    fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut input = Input { bytes };
        if input.take(MAGIC.len())? != MAGIC {
            return Err("it begins otherwise".to_owned());
        }
        let length = input.u32()? as usize;
        let head: Head = serde_json::from_slice(input.take(length)?).map_err(|error| error.to_string())?;
        let index = head.index.map(|length| input.take(length)).transpose()?.map(<[u8]>::to_vec);
        let mut files = BTreeMap::new();
        for _ in 0..head.files {
            let (path, file) = read_one(&mut input)?;
            files.insert(path, file);
        }
        Ok(Self { known: head.known, files, index })
    }
}

/// Whether the file of git's at `path` says what is committed and checked out.
pub(crate) fn is_state(path: &[u8]) -> bool {
    path == b".git/HEAD" || path == b".git/packed-refs" || path.starts_with(b".git/refs/")
}

fn write_file(out: &mut impl Write, path: &[u8], file: &Placed) -> io::Result<()> {
    out.write_all(&u16::try_from(path.len()).map_err(io::Error::other)?.to_be_bytes())?;
    out.write_all(path)?;
    out.write_all(&file.mode.to_be_bytes())?;
    out.write_all(&file.size.to_be_bytes())?;
    out.write_all(&file.modified.to_bytes())?;
    out.write_all(&file.placed.to_bytes())?;
    let id = file.id.as_deref().unwrap_or_default();
    out.write_all(&[u8::try_from(id.len()).map_err(io::Error::other)?])?;
    out.write_all(id.as_bytes())?;
    out.write_all(&[u8::from(file.host.is_some())])?;
    if let Some(found) = &file.host {
        out.write_all(&found.mode.to_be_bytes())?;
        out.write_all(&found.size.to_be_bytes())?;
        out.write_all(&found.modified.to_bytes())?;
        out.write_all(&found.changed.to_bytes())?;
        out.write_all(&found.inode.to_be_bytes())?;
    }
    Ok(())
}

fn read_one(input: &mut Input<'_>) -> Result<(Vec<u8>, Placed), String> {
    let length = usize::from(input.u16()?);
    let path = input.take(length)?.to_vec();
    let (mode, size, modified, placed) = (input.u32()?, input.u64()?, input.time()?, input.time()?);
    let length = usize::from(*input.take(1)?.first().unwrap_or(&0));
    let id = String::from_utf8_lossy(input.take(length)?).into_owned();
    let host = match input.take(1)? {
        [0] => None,
        _ => Some(FileStat {
            mode: input.u32()?,
            size: input.u64()?,
            modified: input.time()?,
            changed: input.time()?,
            inode: input.u64()?,
        }),
    };
    Ok((path, Placed { mode, size, modified, host, id: Some(id).filter(|id| !id.is_empty()), placed }))
}

struct Input<'a> {
    bytes: &'a [u8],
}

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or("it ends too early")?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N)?.try_into().map_err(|_| "it ends too early".to_owned())
    }

    fn u16(&mut self) -> Result<u16, String> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_be_bytes)
    }

    fn time(&mut self) -> Result<Time, String> {
        Time::from_bytes(self.take(12)?).ok_or_else(|| "it has a time that is none".to_owned())
    }
}

/// All records of a user's.
#[derive(Debug, Clone)]
pub struct Records {
    folder: PathBuf,
}

impl Records {
    /// In `folder`, which is made when there is something to record.
    pub fn within(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The workspaces of the VM whose id is `vm`.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn of(&self, vm: &str) -> Result<Vec<Record>, WorkspaceError> {
        let folder = self.folder.join(vm);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(reading(folder)(error)),
        };
        let mut records = Vec::new();
        for entry in entries {
            let path = entry.map_err(reading(&folder))?.path();
            if path.extension().is_none() {
                records.extend(load(&path)?);
            }
        }
        records.sort_by(|a, b| a.guest().cmp(b.guest()));
        Ok(records)
    }

    /// The workspace at `guest` in that VM.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn find(&self, vm: &str, guest: &[u8]) -> Result<Option<Record>, WorkspaceError> {
        Ok(load(&self.path(vm, guest))?.filter(|record| record.guest() == guest))
    }

    /// Keeps `record` in place of what was known.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(&self, vm: &str, record: &Record) -> Result<(), WorkspaceError> {
        let folder = self.folder.join(vm);
        fs::create_dir_all(&folder).map_err(writing(&folder))?;
        let path = self.path(vm, record.guest());
        let mut file =
            tempfile::Builder::new().suffix(".new").tempfile_in(&folder).map_err(writing(&path))?;
        record.write(BufWriter::new(file.as_file_mut())).map_err(writing(&path))?;
        file.persist(&path).map_err(|error| writing(&path)(error.error))?;
        Ok(())
    }

    /// Forgets all that is known of that VM.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn forget(&self, vm: &str) -> Result<(), WorkspaceError> {
        let folder = self.folder.join(vm);
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(writing(folder)(error)),
            _ => Ok(()),
        }
    }

    fn path(&self, vm: &str, guest: &[u8]) -> PathBuf {
        // FNV-1a, by which a path of any bytes and length becomes a name.
        let hash = guest.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        self.folder.join(vm).join(format!("{hash:016x}"))
    }
}

fn load(path: &Path) -> Result<Option<Record>, WorkspaceError> {
    let Some(bytes) = read_file(path).map_err(reading(path))? else { return Ok(None) };
    let record = Record::read(&bytes).map_err(|why| WorkspaceError::Record { path: path.to_owned(), why })?;
    Ok(Some(record))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let time = |seconds| Time { seconds, nanoseconds: 9 };
        let mut record = Record::new(b"/root/\xff repo", Path::new("/home/me/repo"), 20);
        record.known.out = CheckedOut { commit: Some("c".repeat(40)), ..CheckedOut::default() };
        record.known.commits.insert("c".repeat(40));
        record.known.shallow.insert("d".repeat(40));
        record.index = Some(b"DIRC".to_vec());
        let found = FileStat { mode: FILE, size: 1, modified: time(1), changed: time(2), inode: 3 };
        let file = Placed {
            mode: FILE,
            size: 1,
            modified: time(1),
            host: Some(found),
            id: Some("e".repeat(40)),
            placed: time(4),
        };
        record.files.insert(b"a\n".to_vec(), file.clone());
        record.files.insert(b"b".to_vec(), Placed { host: None, id: None, ..file });
        record
    }

    #[test]
    fn what_is_kept_is_found_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::within(folder.path().join("workspaces"));
        assert!(records.of("box").unwrap().is_empty());
        records.keep("box", &record()).unwrap();
        assert_eq!(records.find("box", record().guest()).unwrap(), Some(record()));
        assert_eq!(records.of("box").unwrap(), [record()]);
        assert_eq!(records.find("box", b"/root/repo").unwrap(), None);
        records.forget("box").unwrap();
        records.forget("box").unwrap();
        assert!(records.of("box").unwrap().is_empty());
    }

    #[test]
    fn a_damaged_record_is_told_and_left_alone() {
        let mut bytes = Vec::new();
        record().write(&mut bytes).unwrap();
        assert_eq!(Record::read(&bytes).unwrap(), record());
        for length in 0..bytes.len() {
            assert!(Record::read(&bytes[..length]).is_err(), "{length}");
        }
    }
}
