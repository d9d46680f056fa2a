//! The host's record of a workspace: the state that was sent. From it, banger detects later changes on either side.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    path::{Path, PathBuf},
};

use banger_files::{FileStat, Kind, ListedFile, Time};
use serde::{Deserialize, Serialize};

use crate::{Repository, WorkspaceError, guest_git::Checkout};

const MAGIC: &[u8; 4] = b"bnw\x01";

/// A file as it was placed in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SentFile {
    /// git's mode: 0o100644, 0o100755 or 0o120000.
    pub(crate) mode: u32,
    pub(crate) size: u64,
    pub(crate) modified: Time,
    /// The host's file at that time, if the content came from it.
    pub(crate) host: Option<FileStat>,
    /// The id of its blob, if the file was as staged.
    pub(crate) id: Option<String>,
    /// Time of placing, by the guest's clock. The guest has modified a file with a later change time.
    pub(crate) placed_at: Time,
}

impl SentFile {
    /// Returns whether the guest's file is unchanged since it was placed.
    pub(crate) fn is_unchanged(&self, listed: &ListedFile) -> bool {
        listed.changed <= self.placed_at && self.matches(listed)
    }

    /// Returns whether the guest's file has the metadata of this one.
    pub(crate) fn matches(&self, listed: &ListedFile) -> bool {
        let kind = if self.mode == LINK { Kind::Link } else { Kind::File };
        listed.kind == kind
            && listed.size == self.size
            && listed.modified == self.modified
            && (kind == Kind::Link || (listed.mode & 0o100 != 0) == (self.mode == PROGRAM))
    }
}

/// git's modes of files.
pub(crate) const FILE: u32 = 0o100_644;
pub(crate) const PROGRAM: u32 = 0o100_755;
pub(crate) const LINK: u32 = 0o120_000;

/// Returns git's mode of a file with the permissions `mode`, and its permissions in the guest.
pub(crate) fn modes(mode: u32) -> (u32, u32) {
    if mode & 0o100 != 0 { (PROGRAM, 0o755) } else { (FILE, 0o644) }
}

/// The result of a pull.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pulled {
    /// The refs in the host's repository, with their current commits.
    pub refs: Vec<(String, String)>,
    /// Whether there is uncommitted work. Its ref is called `uncommitted`.
    pub uncommitted: bool,
    /// The refs that keep work of an earlier VM of this name or of a deleted branch.
    pub replaced: BTreeSet<String>,
    /// Names in the guest that the host's repository cannot have, each with the ref that was set instead.
    pub renamed: Vec<(String, String)>,
}

/// The record of a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub(crate) state: RecordState,
    /// The files that were sent, by path.
    pub(crate) files: BTreeMap<Vec<u8>, SentFile>,
    /// The index as it was sent.
    pub(crate) index: Option<Vec<u8>>,
}

/// The record's data besides files and index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecordState {
    #[serde(rename = "guest")]
    guest_path: Vec<u8>,
    pub(crate) root: PathBuf,
    /// Length of an object id, in bytes.
    pub(crate) id_length: usize,
    /// What was checked out at the last send.
    #[serde(rename = "out")]
    pub(crate) checkout: Checkout,
    /// All commits that were sent.
    pub(crate) commits: BTreeSet<String>,
    /// The sent commits whose parents were not sent.
    pub(crate) shallow: BTreeSet<String>,
    /// Blobs that were sent because they were staged.
    pub(crate) staged: BTreeSet<String>,
    /// Refs of the host that received the guest's work, with the commits that they got.
    #[serde(default)]
    pub(crate) pulled: BTreeMap<String, String>,
    /// Whether a transfer has begun and may not have ended: the guest may have less or more than the record says.
    #[serde(default)]
    pub(crate) sending: bool,
}

/// The header of a record file.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    #[serde(rename = "known")]
    state: RecordState,
    /// Length of the index in bytes, if there is one.
    index: Option<usize>,
    files: usize,
}

impl Record {
    /// Creates an empty record for a workspace at `guest_path`, sent from the repository at `root`.
    pub(crate) fn new(guest_path: &[u8], root: &Path, id_length: usize) -> Self {
        let state = RecordState {
            guest_path: guest_path.to_vec(),
            root: root.to_owned(),
            id_length,
            checkout: Checkout::default(),
            commits: BTreeSet::new(),
            shallow: BTreeSet::new(),
            staged: BTreeSet::new(),
            pulled: BTreeMap::new(),
            sending: false,
        };
        Self { state, files: BTreeMap::new(), index: None }
    }

    /// Creates a record for a copy of `repository` at `guest_path`, whose files are not recorded.
    ///
    /// # Errors
    /// Returns an error if git fails.
    pub fn for_copy(guest_path: &[u8], repository: &Repository) -> Result<Self, WorkspaceError> {
        let mut record = Self::new(guest_path, repository.root(), repository.id_length());
        record.state.commits = repository.named_commits()?;
        record.state.checkout = Checkout {
            commit: repository.head.clone(),
            branch: repository.branch.clone(),
            ..Checkout::default()
        };
        Ok(record)
    }

    /// Returns the record for the time of a transfer, which may be interrupted at any byte.
    #[must_use]
    pub fn sending(mut self) -> Self {
        self.state.sending = true;
        self
    }

    /// Returns whether a transfer was interrupted: the guest may have none, some or all of the files.
    pub fn is_sending(&self) -> bool {
        self.state.sending
    }

    /// Returns whether the workspace's first transfer was interrupted: the guest may not have it.
    pub fn is_first_transfer(&self) -> bool {
        self.is_sending() && self.files.is_empty()
    }

    /// Returns whether the files `listed` are as sent: none is new, changed or deleted, judging by metadata. Of
    /// `.git`, only the index, `HEAD` and refs count.
    pub fn is_unchanged(&self, listed: &[ListedFile]) -> bool {
        let paths: BTreeSet<_> = listed.iter().map(|file| file.path.as_slice()).collect();
        let is_not_compared =
            |path: &[u8]| path.starts_with(b".git/") && path != b".git/index" && !is_ref_file(path);
        listed
            .iter()
            .filter(|file| !is_not_compared(&file.path))
            .all(|file| self.files.get(&file.path).is_some_and(|sent| sent.is_unchanged(file)))
            && self
                .files
                .keys()
                .filter(|path| !is_not_compared(path))
                .all(|path| paths.contains(path.as_slice()))
    }

    /// Records the refs that received the guest's work.
    pub(crate) fn set_pulled(&mut self, pulled: &Pulled) {
        self.state.pulled = pulled.refs.iter().cloned().collect();
    }

    /// Returns the workspace's directory in the guest.
    pub fn guest_path(&self) -> &[u8] {
        &self.state.guest_path
    }

    /// Returns the root directory of the repository that was sent.
    pub fn root(&self) -> &Path {
        &self.state.root
    }

    /// Returns the commit that was checked out at the last send.
    pub fn commit(&self) -> Option<&str> {
        self.state.checkout.commit.as_deref()
    }

    pub(crate) fn write(&self, mut out: impl Write) -> io::Result<()> {
        let index = self.index.as_ref().map(Vec::len);
        let head = serde_json::to_vec(&Head { state: self.state.clone(), index, files: self.files.len() })?;
        out.write_all(MAGIC)?;
        out.write_all(&u32::try_from(head.len()).map_err(io::Error::other)?.to_be_bytes())?;
        out.write_all(&head)?;
        out.write_all(self.index.as_deref().unwrap_or_default())?;
        for (path, file) in &self.files {
            write_sent_file(&mut out, path, file)?;
        }
        out.flush()
    }

    pub(crate) fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut input = Input { bytes };
        if input.take(MAGIC.len())? != MAGIC {
            return Err("its header is invalid".to_owned());
        }
        let length = input.u32()? as usize;
        let head: Head = serde_json::from_slice(input.take(length)?).map_err(|error| error.to_string())?;
        let index = head.index.map(|length| input.take(length)).transpose()?.map(<[u8]>::to_vec);
        let mut files = BTreeMap::new();
        for _ in 0..head.files {
            let (path, file) = read_sent_file(&mut input)?;
            files.insert(path, file);
        }
        Ok(Self { state: head.state, files, index })
    }
}

/// Returns whether the git file at `path` records commits or what is checked out.
pub(crate) fn is_ref_file(path: &[u8]) -> bool {
    path == b".git/HEAD" || path == b".git/packed-refs" || path.starts_with(b".git/refs/")
}

fn write_sent_file(out: &mut impl Write, path: &[u8], file: &SentFile) -> io::Result<()> {
    out.write_all(&u16::try_from(path.len()).map_err(io::Error::other)?.to_be_bytes())?;
    out.write_all(path)?;
    out.write_all(&file.mode.to_be_bytes())?;
    out.write_all(&file.size.to_be_bytes())?;
    out.write_all(&file.modified.to_bytes())?;
    out.write_all(&file.placed_at.to_bytes())?;
    let id = file.id.as_deref().unwrap_or_default();
    out.write_all(&[u8::try_from(id.len()).map_err(io::Error::other)?])?;
    out.write_all(id.as_bytes())?;
    out.write_all(&[u8::from(file.host.is_some())])?;
    if let Some(stat) = &file.host {
        out.write_all(&stat.mode.to_be_bytes())?;
        out.write_all(&stat.size.to_be_bytes())?;
        out.write_all(&stat.modified.to_bytes())?;
        out.write_all(&stat.changed.to_bytes())?;
        out.write_all(&stat.inode.to_be_bytes())?;
    }
    Ok(())
}

fn read_sent_file(input: &mut Input<'_>) -> Result<(Vec<u8>, SentFile), String> {
    let length = usize::from(input.u16()?);
    let path = input.take(length)?.to_vec();
    let (mode, size, modified, placed_at) = (input.u32()?, input.u64()?, input.time()?, input.time()?);
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
    Ok((path, SentFile { mode, size, modified, host, id: Some(id).filter(|id| !id.is_empty()), placed_at }))
}

struct Input<'a> {
    bytes: &'a [u8],
}

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (bytes, rest) = self.bytes.split_at_checked(count).ok_or("it is truncated")?;
        self.bytes = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N)?.try_into().map_err(|_| "it is truncated".to_owned())
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
        Time::from_bytes(self.take(12)?).ok_or_else(|| "a time is invalid".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let time = |seconds| Time { seconds, nanoseconds: 9 };
        let mut record = Record::new(b"/root/\xff repo", Path::new("/home/me/repo"), 20);
        record.state.checkout = Checkout { commit: Some("c".repeat(40)), ..Checkout::default() };
        record.state.commits.insert("c".repeat(40));
        record.state.shallow.insert("d".repeat(40));
        record.index = Some(b"DIRC".to_vec());
        let stat = FileStat { mode: FILE, size: 1, modified: time(1), changed: time(2), inode: 3 };
        let file = SentFile {
            mode: FILE,
            size: 1,
            modified: time(1),
            host: Some(stat),
            id: Some("e".repeat(40)),
            placed_at: time(4),
        };
        record.files.insert(b"a\n".to_vec(), file.clone());
        record.files.insert(b"b".to_vec(), SentFile { host: None, id: None, ..file });
        record
    }

    #[test]
    fn truncated_records_are_rejected() {
        let mut bytes = Vec::new();
        record().write(&mut bytes).unwrap();
        assert_eq!(Record::read(&bytes).unwrap(), record());
        for length in 0..bytes.len() {
            assert!(Record::read(&bytes[..length]).is_err(), "{length}");
        }
    }
}
