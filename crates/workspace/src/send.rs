//! Sends a snapshot to a guest: everything the first time, then only the host's changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Read, Write},
    path::Path,
    thread,
};

use banger_files::{FileStat, Listed, PathWriter, Time};
use rustix::fs::{FileType, fstat};

use crate::{
    Record, Snapshot, WorkspaceError,
    error::reading,
    git::{GitError, Objects},
    guest_git,
    history::History,
    index::{IndexEntry, parse_whole},
    objects::{Pack, pack},
    record::{FILE, Known, LINK, PROGRAM, Placed},
    snapshot::FileSource,
};

/// Maximum number of attempts to read a file that keeps changing.
const READINGS: usize = 5;

/// git's files that the host writes again after a checkout or when something is staged.
const HEAD: &[u8] = b".git/HEAD";
const INDEX: &[u8] = b".git/index";

/// A snapshot, and the parts of it to send.
#[derive(Debug)]
pub struct Sending {
    snapshot: Snapshot,
    /// The workspace's record, if it exists already.
    record: Option<Record>,
    guest: Vec<u8>,
    /// Paths of the snapshot to write.
    writes: BTreeSet<Vec<u8>>,
    /// Paths to remove, and directories to remove if they are empty, deepest first.
    removals: Vec<Vec<u8>>,
    git: Part,
}

/// The git data to send, besides files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Nothing: the guest has it already.
    Nothing,
    /// New commits, under a separate ref.
    Commits,
    /// Commits, index and what is checked out.
    All,
}

/// The result of sending.
#[derive(Debug)]
pub struct Sent {
    record: Record,
    placed: BTreeSet<Vec<u8>>,
    /// Number of files written.
    pub files: usize,
    /// Number of files removed.
    pub removed: usize,
}

impl Sending {
    /// Prepares to send all of `snapshot` to `guest`, where nothing exists yet.
    pub fn whole(snapshot: Snapshot, guest: &[u8]) -> Self {
        let writes = snapshot.files.keys().cloned().collect();
        Self { snapshot, record: None, guest: guest.to_vec(), writes, removals: Vec::new(), git: Part::All }
    }

    /// Prepares to send the parts of `snapshot` that differ from `record`. Returns `None` if there are none.
    ///
    /// `listed` is the guest's listing, and `index` its index, if that is not as it was sent.
    ///
    /// # Errors
    /// Returns `Conflicts` if the guest has changed what would be written or removed, and `Another` if the workspace
    /// came from another repository.
    pub fn changes(
        snapshot: Snapshot,
        record: Record,
        listed: &[Listed],
        index: Option<&[u8]>,
    ) -> Result<Option<Self>, WorkspaceError> {
        let record = of_this(&snapshot, record)?;
        let writes: BTreeSet<_> = snapshot
            .files
            .iter()
            .filter(|(path, content)| record.files.get(*path).is_none_or(|file| !is_as_sent(content, file)))
            .map(|(path, _)| path.clone())
            .collect();
        let gone: BTreeSet<_> = record
            .files
            .keys()
            .filter(|path| !is_of_git(path) && !snapshot.files.contains_key(*path))
            .cloned()
            .collect();
        let git = snapshot.out != record.known.out || !same_index(&snapshot, &record)?;
        if writes.is_empty() && gone.is_empty() && !git {
            return Ok(None);
        }
        let mut conflicts = conflicts(&snapshot, &record, listed, &writes, &gone);
        if git {
            conflicts.extend(git_conflicts(&snapshot, &record, listed, index));
        }
        if !conflicts.is_empty() {
            return Err(WorkspaceError::Conflicts(conflicts));
        }
        let mut removals = with_folders(&gone, &snapshot);
        let merging = record.known.out.merging.keys();
        let over = merging.filter(|name| !snapshot.out.merging.contains_key(*name));
        removals.extend(over.map(|name| format!(".git/{name}").into_bytes()));
        let guest = record.guest().to_vec();
        let git = if git { Part::All } else { Part::Nothing };
        Ok(Some(Self { snapshot, record: Some(record), guest, writes, removals, git }))
    }

    /// Prepares to send only new commits of `snapshot`, as `refs/remotes/host/BRANCH`. Returns `None` if there are
    /// none.
    ///
    /// # Errors
    /// Returns `Unborn` if there is no commit at all.
    pub fn commits(snapshot: Snapshot, record: Record) -> Result<Option<Self>, WorkspaceError> {
        let record = of_this(&snapshot, record)?;
        let commit = snapshot.out.commit.as_ref().ok_or(WorkspaceError::Unborn)?;
        if record.known.commits.contains(commit) {
            return Ok(None);
        }
        let guest = record.guest().to_vec();
        let (writes, removals) = (BTreeSet::new(), Vec::new());
        Ok(Some(Self { snapshot, record: Some(record), guest, writes, removals, git: Part::Commits }))
    }

    /// Returns whether the guest's index differs from the one sent. It then has to be fetched first.
    pub fn has_own_index(record: &Record, listed: &[Listed]) -> bool {
        let file = listed.iter().find(|file| file.path == INDEX);
        file.is_some_and(|file| record.files.get(INDEX).is_none_or(|sent| !sent.is(file)))
    }

    /// Writes the stream for the agent to `out`.
    ///
    /// # Errors
    /// Returns an error if something cannot be read here, or if `out` cannot be written. The stream then has no end,
    /// which the guest treats as an error.
    pub fn write(self, out: impl Write) -> Result<Sent, WorkspaceError> {
        let known = self.record.as_ref();
        let empty =
            Record::new(&self.guest, self.snapshot.repository.root(), self.snapshot.repository.id_length());
        let mut record = known.cloned().unwrap_or(empty);
        let mut writer =
            Writer { out: PathWriter::new(out).map_err(WorkspaceError::Sending)?, sent: BTreeMap::new() };
        let (history, pack) = thread::scope(|scope| {
            let packing = scope.spawn(|| (self.git != Part::Nothing).then(|| self.pack()).transpose());
            // The guest writes the files while git packs.
            let written =
                writer.files(&self).and_then(|()| writer.out.flush().map_err(WorkspaceError::Sending));
            let packed = packing.join().unwrap_or_else(|_| {
                Err(WorkspaceError::Sending(io::Error::other("the packing thread panicked")))
            });
            written.and(packed)
        })?
        .unwrap_or_default();
        let known = &mut record.known;
        known.shallow.extend(history.shallow);
        known.commits.extend(history.commits);
        if self.git == Part::Commits {
            writer.commits(&self, known, pack.as_ref())?;
        }
        if self.git == Part::All {
            known.staged.extend(self.snapshot.staged.iter().cloned());
            known.out = self.snapshot.out.clone();
            writer.git(&self, known, pack.as_ref())?;
            record.index = self.snapshot.index.as_ref().map(|index| index.bytes.clone());
        }
        writer.out.end().and_then(|mut out| out.flush()).map_err(WorkspaceError::Sending)?;
        let mut removed = 0;
        for path in &self.removals {
            removed += usize::from(record.files.remove(path).is_some() && !is_of_git(path));
        }
        let files = writer.sent.keys().filter(|path| !is_of_git(path)).count();
        let placed = writer.sent.keys().cloned().collect();
        record.files.extend(writer.sent);
        Ok(Sent { record, placed, files, removed })
    }

    fn pack(&self) -> Result<(History, Option<Pack>), WorkspaceError> {
        let known = self.record.as_ref();
        let history = self.snapshot.history(known);
        let sent = known.map(|record| &record.known.staged);
        let new = |id: &&String| sent.is_none_or(|sent| !sent.contains(*id));
        let staged: Vec<_> = match self.git {
            Part::All => self.snapshot.staged.iter().filter(new).cloned().collect(),
            Part::Commits | Part::Nothing => Vec::new(),
        };
        let known: Vec<_> = known.and_then(Record::commit).map(str::to_owned).into_iter().collect();
        let pack = pack(&self.snapshot.scratch, &history, &known, &staged)?;
        Ok((history, pack))
    }
}

impl Sent {
    /// Returns the new record, once everything is in place at the time `placed` of the guest's clock.
    pub fn placed(mut self, placed: Time) -> Record {
        for path in &self.placed {
            if let Some(file) = self.record.files.get_mut(path) {
                file.placed = placed;
            }
        }
        self.record
    }
}

struct Writer<W> {
    out: PathWriter<W>,
    sent: BTreeMap<Vec<u8>, Placed>,
}

impl<W: Write> Writer<W> {
    fn files(&mut self, sending: &Sending) -> Result<(), WorkspaceError> {
        for path in &sending.removals {
            self.out.remove(path).map_err(WorkspaceError::Sending)?;
        }
        let snapshot = &sending.snapshot;
        let mut objects = None;
        for path in &sending.writes {
            match snapshot.files.get(path) {
                Some(FileSource::OnDisk { id, .. }) => self.on_disk(snapshot, path, id.as_deref())?,
                Some(FileSource::Blob { id, mode, size }) => {
                    let objects = match &mut objects {
                        Some(objects) => objects,
                        none => {
                            none.insert(Objects::begin(snapshot.scratch.command(["cat-file", "--batch"]))?)
                        }
                    };
                    self.blob(objects, path, id, *mode, *size)?;
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Sends a file as it is now, which may differ from the snapshot.
    fn on_disk(&mut self, snapshot: &Snapshot, path: &[u8], id: Option<&str>) -> Result<(), WorkspaceError> {
        let place = || snapshot.repository.root().join(String::from_utf8_lossy(path).into_owned());
        let mut last = None;
        for _ in 0..READINGS {
            let Some(found) = snapshot.tree.look(path).map_err(reading(place()))? else { return Ok(()) };
            let as_staged = match snapshot.files.get(path) {
                Some(FileSource::OnDisk { found: then, .. }) if *then == found => id.map(str::to_owned),
                _ => None,
            };
            let (mode, sent) = match found.file_type() {
                FileType::Symlink => match snapshot.tree.link(path) {
                    Ok(target) => {
                        self.out.link(path, found.modified, target).map_err(WorkspaceError::Sending)?;
                        (LINK, Ok(()))
                    }
                    Err(error) => (LINK, Err(error)),
                },
                FileType::RegularFile => match snapshot.tree.file(path) {
                    Ok((file, found)) => {
                        let (git, permissions) = modes(found.mode);
                        let mut steady = Steady { file, found };
                        let written = self.out.file(path, permissions, found.modified, &mut steady);
                        (git, written.map_err(WorkspaceError::Sending)?)
                    }
                    Err(error) => (FILE, Err(error)),
                },
                // It has become a directory, for example: treat it as deleted.
                _ => return Ok(()),
            };
            match sent {
                Ok(()) => {
                    self.placed(path, mode, found.size, found.modified, Some(found), as_staged);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => last = Some(error),
                Err(error) if error.kind() == CHANGED => last = Some(error),
                Err(error) => return Err(reading(place())(error)),
            }
        }
        last.map_or(Ok(()), |error| Err(reading(place())(error)))
    }

    fn blob(
        &mut self,
        objects: &mut Objects,
        path: &[u8],
        id: &str,
        mode: u32,
        size: u64,
    ) -> Result<(), WorkspaceError> {
        let header = objects.ask(id)?;
        let now = Time::now();
        if mode == LINK {
            let target = objects.bytes(&header)?;
            self.out.link(path, now, target).map_err(WorkspaceError::Sending)?;
        } else {
            let (_, permissions) = modes(mode);
            let written = self.out.file(path, permissions, now, &mut objects.content(header.size));
            written
                .map_err(WorkspaceError::Sending)?
                .map_err(|source| GitError::Run { what: "cat-file".to_owned(), source })?;
        }
        self.placed(path, mode, size, now, None, Some(id.to_owned()));
        Ok(())
    }

    /// Sends the repository: its objects, what is checked out, and the index last.
    fn git(&mut self, sending: &Sending, known: &Known, pack: Option<&Pack>) -> Result<(), WorkspaceError> {
        let snapshot = &sending.snapshot;
        if sending.record.is_none() {
            for folder in
                [&b".git/objects/info"[..], b".git/objects/pack", b".git/refs/heads", b".git/refs/tags"]
            {
                self.out.folder(folder, 0o755).map_err(WorkspaceError::Sending)?;
            }
        }
        self.objects(pack)?;
        let files = guest_git::files(&snapshot.repository, &snapshot.out, &known.shallow, &known.commits);
        for (path, bytes) in files {
            // Keep files that the guest's user may have edited.
            let once = [&b".git/config"[..], b".git/info/exclude", b".git/info/sparse-checkout"];
            if sending.record.is_none() || !once.contains(&path.as_slice()) {
                self.bytes(&path, Time::now(), &bytes)?;
            }
        }
        if let Some(index) = &snapshot.index {
            self.bytes(INDEX, index.modified, &index.bytes)?;
        }
        Ok(())
    }

    /// Sends only commits, and the ref that names them.
    fn commits(
        &mut self,
        sending: &Sending,
        known: &Known,
        pack: Option<&Pack>,
    ) -> Result<(), WorkspaceError> {
        self.objects(pack)?;
        let before = sending.record.as_ref().map(|record| &record.known.shallow);
        if before != Some(&known.shallow) {
            let ends: String = known.shallow.iter().map(|id| format!("{id}\n")).collect();
            self.bytes(b".git/shallow", Time::now(), ends.as_bytes())?;
        }
        let branch = sending.snapshot.branch().unwrap_or("detached");
        let commit = sending.snapshot.commit().unwrap_or_default();
        let path = format!(".git/refs/remotes/host/{branch}");
        self.bytes(path.as_bytes(), Time::now(), format!("{commit}\n").as_bytes())
    }

    fn objects(&mut self, pack: Option<&Pack>) -> Result<(), WorkspaceError> {
        if let Some(pack) = pack {
            self.object_file(&format!("{}.pack", pack.name), &pack.pack)?;
            self.object_file(&format!("{}.idx", pack.name), &pack.index)?;
        }
        Ok(())
    }

    fn object_file(&mut self, name: &str, file: &Path) -> Result<(), WorkspaceError> {
        let mut content = File::open(file).map_err(reading(file))?;
        let path = [b".git/objects/pack/", name.as_bytes()].concat();
        let written = self.out.file(&path, 0o444, Time::now(), &mut content);
        written.map_err(WorkspaceError::Sending)?.map_err(reading(file))
    }

    fn bytes(&mut self, path: &[u8], modified: Time, mut bytes: &[u8]) -> Result<(), WorkspaceError> {
        let size = bytes.len() as u64;
        let written = self.out.file(path, 0o644, modified, &mut bytes);
        written.and_then(|read| read).map_err(WorkspaceError::Sending)?;
        self.placed(path, FILE, size, modified, None, None);
        Ok(())
    }

    fn placed(
        &mut self,
        path: &[u8],
        mode: u32,
        size: u64,
        modified: Time,
        host: Option<FileStat>,
        id: Option<String>,
    ) {
        let placed = Placed { mode, size, modified, host, id, placed: Time::default() };
        self.sent.insert(path.to_vec(), placed);
    }
}

/// A reader of a file that fails if the file changes meanwhile.
struct Steady {
    file: File,
    found: FileStat,
}

/// The kind of that error.
const CHANGED: io::ErrorKind = io::ErrorKind::ResourceBusy;

impl Read for Steady {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        if count == 0 && !buffer.is_empty() {
            let now = FileStat::of(&fstat(&self.file)?);
            if (now.size, now.modified, now.changed)
                != (self.found.size, self.found.modified, self.found.changed)
            {
                return Err(io::Error::new(CHANGED, "it changed while it was read"));
            }
        }
        Ok(count)
    }
}

/// Returns `record` if it belongs to the repository of `snapshot`, which may have been moved.
fn of_this(snapshot: &Snapshot, mut record: Record) -> Result<Record, WorkspaceError> {
    let repository = &snapshot.repository;
    if record.root() == repository.root() {
        return Ok(record);
    }
    let has_it = |commit| repository.commit(commit).is_ok();
    if record.root().exists() || !record.commit().is_some_and(has_it) {
        return Err(WorkspaceError::Another(record.root().to_owned()));
    }
    record.known.root = repository.root().to_owned();
    Ok(record)
}

/// Returns git's mode of a file, and its permissions in the guest.
fn modes(mode: u32) -> (u32, u32) {
    if mode & 0o100 != 0 { (PROGRAM, 0o755) } else { (FILE, 0o644) }
}

fn is_of_git(path: &[u8]) -> bool {
    path.starts_with(b".git/")
}

/// Returns whether a file on the host is unchanged since `file` was placed.
fn is_as_sent(content: &FileSource, file: &Placed) -> bool {
    match content {
        FileSource::OnDisk { found, .. } => file.host.as_ref() == Some(found),
        FileSource::Blob { id, mode, .. } => {
            file.host.is_none() && file.id.as_ref() == Some(id) && file.mode == *mode
        }
    }
}

/// Returns whether the same content is staged as was sent, whatever metadata the index has.
fn same_index(snapshot: &Snapshot, record: &Record) -> Result<bool, WorkspaceError> {
    match (&snapshot.index, &record.index) {
        (None, None) => Ok(true),
        (Some(now), Some(then)) if now.bytes == *then => Ok(true),
        (Some(_), Some(then)) => {
            let then = parse_whole(then, record.known.id_length, "the record")?;
            Ok(same_entries(&snapshot.entries, &then))
        }
        _ => Ok(false),
    }
}

fn same_entries(one: &[IndexEntry], other: &[IndexEntry]) -> bool {
    let staged = |entry: &IndexEntry| IndexEntry { modified: 0, size: 0, ..entry.clone() };
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| staged(one) == staged(other))
}

/// Returns the paths that the host would write or remove, but the guest has changed.
fn conflicts(
    snapshot: &Snapshot,
    record: &Record,
    listed: &[Listed],
    writes: &BTreeSet<Vec<u8>>,
    gone: &BTreeSet<Vec<u8>>,
) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for file in listed.iter().filter(|file| !is_of_git(&file.path)) {
        let path = &file.path;
        let placed = record.files.get(path);
        let as_placed = placed.is_some_and(|placed| placed.is(file));
        let in_the_way = writes.contains(path)
            || gone.contains(path)
            // A file where a directory is needed, or the reverse.
            || (!snapshot.files.contains_key(path)
                && (beneath(writes, path).is_some() || parents(path).any(|parent| writes.contains(parent))));
        if in_the_way && !as_placed && !would_be(snapshot, file) {
            found.push(path.clone());
        }
    }
    let there: BTreeSet<_> = listed.iter().map(|file| &file.path).collect();
    // Files that the guest has deleted and the host has changed.
    let deleted = writes.iter().filter(|path| record.files.contains_key(*path) && !there.contains(path));
    found.extend(deleted.cloned());
    found
}

/// Returns whether the guest's file looks like the one that the host would write.
fn would_be(snapshot: &Snapshot, file: &Listed) -> bool {
    let Some(FileSource::OnDisk { found, .. }) = snapshot.files.get(&file.path) else { return false };
    let mode = if found.file_type() == FileType::Symlink { LINK } else { modes(found.mode).0 };
    let placed = Placed {
        mode,
        size: found.size,
        modified: found.modified,
        host: None,
        id: None,
        placed: Time::default(),
    };
    placed.is_like(file)
}

/// Returns a path of `paths` below the directory `folder`.
fn beneath<'a>(paths: &'a BTreeSet<Vec<u8>>, folder: &[u8]) -> Option<&'a Vec<u8>> {
    let begin = [folder, b"/"].concat();
    paths.range(begin.clone()..).next().filter(|path| path.starts_with(&begin))
}

/// Returns the parent directories of `path`, innermost first.
fn parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/');
    slashes.map(|(at, _)| path.get(..at).unwrap_or_default())
}

/// Returns git's files that the host would write, but the guest has changed.
fn git_conflicts(
    snapshot: &Snapshot,
    record: &Record,
    listed: &[Listed],
    index: Option<&[u8]>,
) -> Vec<Vec<u8>> {
    let branches = [&record.known.out.branch, &snapshot.out.branch]
        .map(|branch| branch.as_ref().map(|branch| format!(".git/{branch}").into_bytes()));
    let mut found = Vec::new();
    for file in listed.iter().filter(|file| file.path == HEAD || branches.contains(&Some(file.path.clone())))
    {
        if record.files.get(&file.path).is_none_or(|placed| !placed.is(file)) {
            found.push(file.path.clone());
        }
    }
    let staged_there = index.is_some_and(|index| {
        let parse = |bytes: &[u8]| parse_whole(bytes, record.known.id_length, "the VM").ok();
        match (parse(index), record.index.as_deref().and_then(parse)) {
            (Some(now), Some(then)) => !same_entries(&now, &then),
            _ => true,
        }
    });
    if staged_there {
        found.push(INDEX.to_vec());
    }
    found
}

/// Returns `gone` with the directories that become empty by it, deepest first.
fn with_folders(gone: &BTreeSet<Vec<u8>>, snapshot: &Snapshot) -> Vec<Vec<u8>> {
    let left: BTreeSet<&[u8]> = snapshot.files.keys().flat_map(|path| parents(path)).collect();
    let folders: BTreeSet<&[u8]> =
        gone.iter().flat_map(|path| parents(path)).filter(|folder| !left.contains(folder)).collect();
    let mut all: Vec<_> = gone.iter().cloned().collect();
    // A directory sorts before its entries.
    all.extend(folders.into_iter().rev().map(<[u8]>::to_vec));
    all
}
