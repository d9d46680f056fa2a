//! Sends a snapshot to a guest: everything the first time, then only the host's changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Read, Write},
    path::Path,
    thread,
};

use banger_files::{FileRequest, FileStat, ListedFile, PathWriter, Time};
use rustix::fs::{FileType, fstat};

use crate::{
    Record, Snapshot, WorkspaceError,
    cat_file::Objects,
    conflicts::{HEAD, INDEX, branch_file, conflicts, git_conflicts, is_git_path, parents},
    error::reading,
    git::GitError,
    guest_git,
    history::History,
    index::{parse_complete, same_entries},
    objects::{Pack, pack},
    record::{FILE, LINK, RecordState, SentFile, modes},
    snapshot::FileSource,
};

/// Maximum number of attempts to read a file that keeps changing.
const MAX_READS: usize = 5;

/// A snapshot, and the parts of it to send.
#[derive(Debug)]
pub struct Upload {
    snapshot: Snapshot,
    /// The workspace's record, if it exists already.
    record: Option<Record>,
    guest: Vec<u8>,
    /// Paths of the snapshot to write.
    writes: BTreeSet<Vec<u8>>,
    /// Paths to remove, and directories to remove if they are empty, deepest first.
    removals: Vec<Vec<u8>>,
    git: GitPart,
}

/// The git data to send, besides files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GitPart {
    /// Nothing: the guest has it already.
    Nothing,
    /// New commits, under a separate ref.
    Commits,
    /// Commits, index and what is checked out.
    All,
}

/// The result of sending.
#[derive(Debug)]
pub struct UploadResult {
    record: Record,
    written: BTreeSet<Vec<u8>>,
    /// Number of files written.
    pub files: usize,
    /// Number of files removed.
    pub removed: usize,
}

impl Upload {
    /// Prepares to send all of `snapshot` to `guest`, where nothing exists yet.
    pub fn full(snapshot: Snapshot, guest: &[u8]) -> Self {
        let writes = snapshot.files.keys().cloned().collect();
        Self {
            snapshot,
            record: None,
            guest: guest.to_vec(),
            writes,
            removals: Vec::new(),
            git: GitPart::All,
        }
    }

    /// Prepares to send the parts of `snapshot` that differ from `record`. Returns `None` if there are none.
    ///
    /// `listed` is the guest's listing, and `git_files` the content of its
    /// [changed git files](Self::changed_git_files).
    ///
    /// # Errors
    /// Returns `Conflicts` if the guest has changed what would be written or removed, and `OtherRepository` if the
    /// workspace came from another repository.
    pub fn changes(
        snapshot: Snapshot,
        record: Record,
        listed: &[ListedFile],
        git_files: &BTreeMap<Vec<u8>, Vec<u8>>,
    ) -> Result<Option<Self>, WorkspaceError> {
        let record = for_repository_of(&snapshot, record)?;
        let writes: BTreeSet<_> = snapshot
            .files
            .iter()
            .filter(|(path, content)| record.files.get(*path).is_none_or(|file| !is_unchanged(content, file)))
            .map(|(path, _)| path.clone())
            .collect();
        let deleted: BTreeSet<_> = record
            .files
            .keys()
            .filter(|path| !is_git_path(path) && !snapshot.files.contains_key(*path))
            .cloned()
            .collect();
        let git = snapshot.checkout != record.state.checkout || !same_index(&snapshot, &record)?;
        if writes.is_empty() && deleted.is_empty() && !git && !record.is_sending() {
            return Ok(None);
        }
        let mut conflicts = conflicts(&snapshot, &record, listed, &writes, &deleted);
        if git {
            conflicts.extend(git_conflicts(&snapshot, &record, git_files));
        }
        if !conflicts.is_empty() {
            return Err(WorkspaceError::Conflicts(conflicts));
        }
        let mut removals = with_empty_dirs(&deleted, &snapshot);
        let merging = record.state.checkout.merging.keys();
        let ended_merge_files = merging.filter(|name| !snapshot.checkout.merging.contains_key(*name));
        removals.extend(ended_merge_files.map(|name| format!(".git/{name}").into_bytes()));
        let guest = record.guest_path().to_vec();
        let git = if git { GitPart::All } else { GitPart::Nothing };
        Ok(Some(Self { snapshot, record: Some(record), guest, writes, removals, git }))
    }

    /// Prepares to send only new commits of `snapshot`, as `refs/remotes/host/BRANCH`. Returns `None` if there are
    /// none.
    ///
    /// # Errors
    /// Returns `Unborn` if there is no commit at all.
    pub fn commits(snapshot: Snapshot, record: Record) -> Result<Option<Self>, WorkspaceError> {
        let record = for_repository_of(&snapshot, record)?;
        let commit = snapshot.checkout.commit.as_ref().ok_or(WorkspaceError::Unborn)?;
        if record.state.commits.contains(commit) {
            return Ok(None);
        }
        let guest = record.guest_path().to_vec();
        let (writes, removals) = (BTreeSet::new(), Vec::new());
        Ok(Some(Self { snapshot, record: Some(record), guest, writes, removals, git: GitPart::Commits }))
    }

    /// Returns the git files that the host may write again and that are not as the record says. They have to be fetched
    /// first: an interrupted transfer may have placed them.
    pub fn changed_git_files(snapshot: &Snapshot, record: &Record, listed: &[ListedFile]) -> FileRequest {
        let branches = [&record.state.checkout, &snapshot.checkout].map(branch_file);
        let is_written = |file: &&ListedFile| {
            file.path == HEAD || file.path == INDEX || branches.contains(&Some(file.path.clone()))
        };
        let is_changed =
            |file: &&ListedFile| record.files.get(&file.path).is_none_or(|sent| !sent.is_unchanged(file));
        let changed = listed.iter().filter(is_written).filter(is_changed);
        FileRequest::new(changed.map(|file| (file.path.clone(), file.size)))
    }

    /// Returns the record for the time of the transfer.
    ///
    /// # Errors
    /// Returns an error if git fails.
    pub fn record_before(&self) -> Result<Record, WorkspaceError> {
        if let Some(record) = &self.record {
            return Ok(record.clone());
        }
        let mut record = Record::for_copy(&self.guest, &self.snapshot.repository)?;
        record.state.checkout = self.snapshot.checkout.clone();
        Ok(record)
    }

    /// Writes the stream for the agent to `out`.
    ///
    /// # Errors
    /// Returns an error if something cannot be read here, or if `out` cannot be written. The stream then has no end,
    /// which the guest treats as an error.
    pub fn write(self, out: impl Write) -> Result<UploadResult, WorkspaceError> {
        let previous = self.record.as_ref();
        let empty =
            Record::new(&self.guest, self.snapshot.repository.root(), self.snapshot.repository.id_length());
        let mut record = previous.cloned().unwrap_or(empty);
        let mut writer =
            Writer { out: PathWriter::new(out).map_err(WorkspaceError::Transfer)?, sent: BTreeMap::new() };
        let (history, pack) = thread::scope(|scope| {
            let packing = scope.spawn(|| (self.git != GitPart::Nothing).then(|| self.pack()).transpose());
            // The guest writes the files while git packs.
            let written =
                writer.files(&self).and_then(|()| writer.out.flush().map_err(WorkspaceError::Transfer));
            let pack_result = packing.join().unwrap_or_else(|_| {
                Err(WorkspaceError::Transfer(io::Error::other("the packing thread panicked")))
            });
            written.and(pack_result)
        })?
        .unwrap_or_default();
        let state = &mut record.state;
        state.sending = false;
        state.shallow.extend(history.shallow);
        state.commits.extend(history.commits);
        if self.git == GitPart::Commits {
            writer.commits(&self, state, pack.as_ref())?;
        }
        if self.git == GitPart::All {
            state.staged.extend(self.snapshot.staged.iter().cloned());
            state.checkout = self.snapshot.checkout.clone();
            writer.git(&self, state, pack.as_ref())?;
            record.index = self.snapshot.index.as_ref().map(|index| index.bytes.clone());
        }
        writer.out.finish().and_then(|mut out| out.flush()).map_err(WorkspaceError::Transfer)?;
        let mut removed = 0;
        for path in &self.removals {
            removed += usize::from(record.files.remove(path).is_some() && !is_git_path(path));
        }
        let files = writer.sent.keys().filter(|path| !is_git_path(path)).count();
        let written = writer.sent.keys().cloned().collect();
        record.files.extend(writer.sent);
        Ok(UploadResult { record, written, files, removed })
    }

    fn pack(&self) -> Result<(History, Option<Pack>), WorkspaceError> {
        let record = self.record.as_ref();
        let history = self.snapshot.history(record);
        let sent = record.map(|record| &record.state.staged);
        let new = |id: &&String| sent.is_none_or(|sent| !sent.contains(*id));
        let staged: Vec<_> = match self.git {
            GitPart::All => self.snapshot.staged.iter().filter(new).cloned().collect(),
            GitPart::Commits | GitPart::Nothing => Vec::new(),
        };
        let known: Vec<_> = record.and_then(Record::commit).map(str::to_owned).into_iter().collect();
        let pack = pack(&self.snapshot.temp_repo, &history, &known, &staged)?;
        Ok((history, pack))
    }
}

impl UploadResult {
    /// Returns the new record, once everything is in place at the time `placed_at` of the guest's clock.
    pub fn into_record(mut self, placed_at: Time) -> Record {
        for path in &self.written {
            if let Some(file) = self.record.files.get_mut(path) {
                file.placed_at = placed_at;
            }
        }
        self.record
    }
}

struct Writer<W> {
    out: PathWriter<W>,
    sent: BTreeMap<Vec<u8>, SentFile>,
}

impl<W: Write> Writer<W> {
    fn files(&mut self, upload: &Upload) -> Result<(), WorkspaceError> {
        for path in &upload.removals {
            self.out.remove(path).map_err(WorkspaceError::Transfer)?;
        }
        let snapshot = &upload.snapshot;
        let mut objects = None;
        for path in &upload.writes {
            match snapshot.files.get(path) {
                Some(FileSource::OnDisk { id, .. }) => self.on_disk(snapshot, path, id.as_deref())?,
                Some(FileSource::Blob { id, mode, size }) => {
                    let objects = match &mut objects {
                        Some(objects) => objects,
                        none => {
                            none.insert(Objects::start(snapshot.temp_repo.command(["cat-file", "--batch"]))?)
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
        let full_path = || snapshot.repository.root().join(String::from_utf8_lossy(path).into_owned());
        let mut last = None;
        for _ in 0..MAX_READS {
            let Some(stat) = snapshot.tree.stat(path).map_err(reading(full_path()))? else { return Ok(()) };
            let staged_id = match snapshot.files.get(path) {
                Some(FileSource::OnDisk { stat: then, .. }) if *then == stat => id.map(str::to_owned),
                _ => None,
            };
            let (mode, sent) = match stat.file_type() {
                FileType::Symlink => match snapshot.tree.link(path) {
                    Ok(target) => {
                        self.out.link(path, stat.modified, target).map_err(WorkspaceError::Transfer)?;
                        (LINK, Ok(()))
                    }
                    Err(error) => (LINK, Err(error)),
                },
                FileType::RegularFile => match snapshot.tree.file(path) {
                    Ok((file, stat)) => {
                        let (git, permissions) = modes(stat.mode);
                        let mut reader = UnchangedReader { file, stat };
                        let written = self.out.file(path, permissions, stat.modified, &mut reader);
                        (git, written.map_err(WorkspaceError::Transfer)?)
                    }
                    Err(error) => (FILE, Err(error)),
                },
                // It has become a directory, for example: treat it as deleted.
                _ => return Ok(()),
            };
            match sent {
                Ok(()) => {
                    self.record(path, mode, stat.size, stat.modified, Some(stat), staged_id);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => last = Some(error),
                Err(error) if error.kind() == CHANGED => last = Some(error),
                Err(error) => return Err(reading(full_path())(error)),
            }
        }
        last.map_or(Ok(()), |error| Err(reading(full_path())(error)))
    }

    fn blob(
        &mut self,
        objects: &mut Objects,
        path: &[u8],
        id: &str,
        mode: u32,
        size: u64,
    ) -> Result<(), WorkspaceError> {
        let header = objects.header(id)?;
        let now = Time::now();
        if mode == LINK {
            let target = objects.bytes(&header)?;
            self.out.link(path, now, target).map_err(WorkspaceError::Transfer)?;
        } else {
            let (_, permissions) = modes(mode);
            let written = self.out.file(path, permissions, now, &mut objects.content(header.size));
            written
                .map_err(WorkspaceError::Transfer)?
                .map_err(|error| GitError::from_io("cat-file", error))?;
        }
        self.record(path, mode, size, now, None, Some(id.to_owned()));
        Ok(())
    }

    /// Sends the repository: its objects, what is checked out, and the index last.
    fn git(
        &mut self,
        upload: &Upload,
        state: &RecordState,
        pack: Option<&Pack>,
    ) -> Result<(), WorkspaceError> {
        let snapshot = &upload.snapshot;
        if upload.record.is_none() {
            for dir in
                [&b".git/objects/info"[..], b".git/objects/pack", b".git/refs/heads", b".git/refs/tags"]
            {
                self.out.directory(dir, 0o755).map_err(WorkspaceError::Transfer)?;
            }
        }
        self.objects(pack)?;
        let files =
            guest_git::files(&snapshot.repository, &snapshot.checkout, &state.shallow, &state.commits);
        for (path, bytes) in files {
            // Keep files that the guest's user may have edited.
            let first_time_only = [&b".git/config"[..], b".git/info/exclude", b".git/info/sparse-checkout"];
            if upload.record.is_none() || !first_time_only.contains(&path.as_slice()) {
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
        upload: &Upload,
        state: &RecordState,
        pack: Option<&Pack>,
    ) -> Result<(), WorkspaceError> {
        self.objects(pack)?;
        let before = upload.record.as_ref().map(|record| &record.state.shallow);
        if before != Some(&state.shallow) {
            let shallow: String = state.shallow.iter().map(|id| format!("{id}\n")).collect();
            self.bytes(b".git/shallow", Time::now(), shallow.as_bytes())?;
        }
        let branch = upload.snapshot.branch().unwrap_or("detached");
        let commit = upload.snapshot.commit().unwrap_or_default();
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
        written.map_err(WorkspaceError::Transfer)?.map_err(reading(file))
    }

    fn bytes(&mut self, path: &[u8], modified: Time, mut bytes: &[u8]) -> Result<(), WorkspaceError> {
        let size = bytes.len() as u64;
        let written = self.out.file(path, 0o644, modified, &mut bytes);
        written.and_then(|read| read).map_err(WorkspaceError::Transfer)?;
        self.record(path, FILE, size, modified, None, None);
        Ok(())
    }

    fn record(
        &mut self,
        path: &[u8],
        mode: u32,
        size: u64,
        modified: Time,
        host: Option<FileStat>,
        id: Option<String>,
    ) {
        let file = SentFile { mode, size, modified, host, id, placed_at: Time::default() };
        self.sent.insert(path.to_vec(), file);
    }
}

/// A reader of a file that fails if the file changes meanwhile.
struct UnchangedReader {
    file: File,
    stat: FileStat,
}

/// The kind of that error.
const CHANGED: io::ErrorKind = io::ErrorKind::ResourceBusy;

impl Read for UnchangedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        if count == 0 && !buffer.is_empty() {
            let now = FileStat::of(&fstat(&self.file)?);
            if (now.size, now.modified, now.changed)
                != (self.stat.size, self.stat.modified, self.stat.changed)
            {
                return Err(io::Error::new(CHANGED, "it changed while it was read"));
            }
        }
        Ok(count)
    }
}

/// Returns `record` if it belongs to the repository of `snapshot`, which may have been moved.
fn for_repository_of(snapshot: &Snapshot, mut record: Record) -> Result<Record, WorkspaceError> {
    let repository = &snapshot.repository;
    if record.root() == repository.root() {
        return Ok(record);
    }
    let has_commit = |commit| repository.commit(commit).is_ok();
    if record.root().exists() || !record.commit().is_some_and(has_commit) {
        return Err(WorkspaceError::OtherRepository(record.root().to_owned()));
    }
    record.state.root = repository.root().to_owned();
    Ok(record)
}

/// Returns whether a file on the host is unchanged since `file` was placed.
fn is_unchanged(content: &FileSource, file: &SentFile) -> bool {
    match content {
        FileSource::OnDisk { stat, .. } => file.host.as_ref() == Some(stat),
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
            let then = parse_complete(then, record.state.id_length, "the record")?;
            Ok(same_entries(&snapshot.entries, &then))
        }
        _ => Ok(false),
    }
}

/// Returns `deleted` with the directories that become empty by it, deepest first.
fn with_empty_dirs(deleted: &BTreeSet<Vec<u8>>, snapshot: &Snapshot) -> Vec<Vec<u8>> {
    let kept_dirs: BTreeSet<&[u8]> = snapshot.files.keys().flat_map(|path| parents(path)).collect();
    let dirs: BTreeSet<&[u8]> =
        deleted.iter().flat_map(|path| parents(path)).filter(|dir| !kept_dirs.contains(dir)).collect();
    let mut all: Vec<_> = deleted.iter().cloned().collect();
    // A directory sorts before its entries.
    all.extend(dirs.into_iter().rev().map(<[u8]>::to_vec));
    all
}
