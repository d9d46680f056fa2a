//! Computes a guest's changes as a patch, from its listing and changed files, with the host's git. The guest's git is
//! not involved. Of its `.git`, only `HEAD`, the index and the excludes are read, as data.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read, Write},
    path::Path,
};

use banger_files::{
    FileRequest, Item, Kind, ListedFile, ListingReader, Part, Reader, StreamError, safe_path,
};
use schemars::JsonSchema;
use serde::Serialize;
use tempfile::{SpooledTempFile, spooled_tempfile};

use crate::{
    Record, Repository, TempRepository, WorkspaceError,
    error::writing,
    git::{GitError, run, unexpected_output},
    index::{GITLINK, Index, parse},
    process::Process,
    record::{FILE, LINK, PROGRAM, is_ref_file},
    repository::object_id,
    snapshot::{excludes_file, tree_entries},
    temp_repo::quote,
};

const INDEX: &[u8] = b".git/index";
const HEAD: &[u8] = b".git/HEAD";
const EXCLUDE: &[u8] = b".git/info/exclude";

/// Maximum size of the ignore files and the index together, in bytes: far more than the largest repositories need.
const MAX_RULES: usize = 256 << 20;

/// Maximum size of a file buffered in memory before git receives it, in bytes. Larger ones go to disk.
const MAX_IN_MEMORY: usize = 8 << 20;

/// Ref of the commit with the guest's files in the temporary repository.
const WORK: &str = "refs/banger/work";

/// A guest's workspace, seen from the host.
#[derive(Debug)]
pub struct Guest {
    record: Record,
    temp_repo: TempRepository,
    /// git arguments for the user's global excludes.
    excludes: Vec<String>,
    listed: Vec<ListedFile>,
    /// The content of the ignore files, `HEAD` and the index.
    rules: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// git's mode of a file, and its blob: an id, or a mark of the import.
type Blob = (u32, String);

/// A path in the guest that is left out of the result, and the reason.
pub type LeftOut = (Vec<u8>, &'static str);

/// The kind of a change to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// The file is new.
    Added,
    /// The file's content or permissions differ.
    Modified,
    /// The file is deleted.
    Deleted,
    /// The file has another path.
    Renamed,
    /// A file became a link, or the reverse.
    TypeChanged,
}

/// A changed file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Change {
    /// The kind of the change.
    pub change: ChangeKind,
    /// Its path; bytes that are not UTF-8 are shown as U+FFFD.
    pub path: String,
    /// Its previous path, if it was renamed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_path: Option<String>,
}

/// All changes in a guest.
#[derive(Debug)]
pub struct Changes {
    temp_repo: TempRepository,
    record: Record,
    /// The commit that was sent, or the empty tree.
    base: String,
    /// The commit with the guest's files.
    work: String,
    /// Content of the guest's `HEAD`.
    head: Vec<u8>,
    /// Paths in the guest that are left out of the changes.
    pub left_out: Vec<LeftOut>,
}

/// Reads a listing from a guest.
///
/// # Errors
/// Returns an error if it is malformed.
pub fn read_listing(input: impl Read) -> Result<Vec<ListedFile>, WorkspaceError> {
    let mut reader = ListingReader::new(input)?;
    let mut listed = Vec::new();
    while let Some(record) = reader.next_record()? {
        listed.push(record);
    }
    Ok(listed)
}

/// Reads the small files of `request` from a guest, by path.
///
/// # Errors
/// Returns an error if they are malformed, were not requested, or are too large together.
pub fn read_files(
    input: impl Read,
    request: FileRequest,
) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, WorkspaceError> {
    let mut files = BTreeMap::new();
    let mut remaining = MAX_RULES;
    each_file(input, request, |path, mode, content| {
        let mut bytes = Vec::new();
        if mode != LINK {
            content.read_to_end(&mut bytes).map_err(WorkspaceError::Transfer)?;
            remaining = remaining
                .checked_sub(bytes.len())
                .ok_or_else(|| WorkspaceError::TooLarge("ignore files".to_owned()))?;
            files.insert(path.to_vec(), bytes);
        }
        Ok(())
    })?;
    Ok(files)
}

impl Guest {
    /// Opens the workspace of `record`, with the guest's listing `listed`. git's temporary data is created in
    /// `cache`.
    ///
    /// # Errors
    /// Returns an error if the cache cannot be written.
    pub fn new(
        repository: &Repository,
        record: Record,
        listed: Vec<ListedFile>,
        cache: &Path,
    ) -> Result<Self, WorkspaceError> {
        let temp_repo = TempRepository::create(repository, cache)?;
        let listed = listed.into_iter().filter(|file| safe_path(&file.path)).collect();
        let excludes = excludes_file(repository);
        Ok(Self { record, temp_repo, excludes, listed, rules: BTreeMap::new() })
    }

    /// Returns whether the guest's commits, branches or tags differ from those sent.
    pub fn has_own_refs(&self) -> bool {
        let is_changed = |file: &&ListedFile| {
            self.record.files.get(&file.path).is_none_or(|sent| !sent.is_unchanged(file))
        };
        self.listed.iter().filter(|file| is_ref_file(&file.path)).any(|file| is_changed(&file))
    }

    /// Returns the ignore files, `HEAD` and the index, which have to be fetched first.
    pub fn rule_files(&self) -> FileRequest {
        let is_rule_file = |file: &&ListedFile| {
            file.kind == Kind::File
                && (file.path == INDEX
                    || file.path == HEAD
                    || file.path == EXCLUDE
                    || file.path == b".gitignore"
                    || file.path.ends_with(b"/.gitignore"))
        };
        FileRequest::new(self.listed.iter().filter(is_rule_file).map(path_and_size))
    }

    /// Accepts the fetched `rules`, and returns the files to fetch next.
    ///
    /// These are all files of the workspace whose content is not known to be as sent.
    ///
    /// # Errors
    /// Returns an error if git cannot determine what is ignored.
    pub fn files_to_fetch(
        &mut self,
        rules: BTreeMap<Vec<u8>, Vec<u8>>,
    ) -> Result<FileRequest, WorkspaceError> {
        self.rules = rules;
        let tracked = self.tracked()?;
        let (included, untracked): (Vec<_>, Vec<_>) = self
            .listed
            .iter()
            .filter(|file| !file.path.starts_with(b".git/"))
            .partition(|file| tracked.contains(&file.path) || file.kind == Kind::Repository);
        let ignored = self.ignored(untracked.iter().map(|file| file.path.as_slice()))?;
        let kept: BTreeSet<Vec<u8>> = included
            .iter()
            .chain(untracked.iter().filter(|file| !ignored.contains(&file.path)))
            .map(|file| file.path.clone())
            .collect();
        self.listed.retain(|file| kept.contains(&file.path));
        let unknown = self.listed.iter().filter(|file| matches!(file.kind, Kind::File | Kind::Link));
        Ok(FileRequest::new(unknown.filter(|file| self.known_blob(file).is_none()).map(path_and_size)))
    }

    /// Returns whether a file of the workspace is new, changed or deleted. Call it after
    /// [`files_to_fetch`](Self::files_to_fetch): ignored files do not count.
    pub fn has_work(&self) -> bool {
        let sent = &self.record.files;
        let listed_paths: BTreeSet<_> = self.listed.iter().map(|file| file.path.as_slice()).collect();
        self.listed.iter().any(|file| sent.get(&file.path).is_none_or(|sent| !sent.is_unchanged(file)))
            || sent.keys().any(|path| !path.starts_with(b".git/") && !listed_paths.contains(path.as_slice()))
    }

    /// Returns a file's mode and blob, if it is as sent, and was as staged then.
    fn known_blob(&self, file: &ListedFile) -> Option<(u32, &str)> {
        let sent = self.record.files.get(&file.path).filter(|sent| sent.is_unchanged(file))?;
        Some((sent.mode, sent.id.as_deref()?))
    }

    /// Returns the paths that the guest tracks.
    fn tracked(&self) -> Result<BTreeSet<Vec<u8>>, WorkspaceError> {
        let index = self.rules.get(INDEX).map(|bytes| parse(bytes, self.record.state.id_length));
        if let Some(Ok(Index::Complete(entries, _))) = index {
            return Ok(entries.into_iter().map(|entry| entry.path).collect());
        }
        // Without a readable index, the commit's paths.
        match self.record.commit() {
            Some(commit) => Ok(tree_entries(&self.temp_repo, commit)?.into_keys().collect()),
            None => Ok(BTreeSet::new()),
        }
    }

    /// Returns those of `paths` that the guest's or the user's global rules ignore.
    fn ignored<'a>(
        &self,
        paths: impl Iterator<Item = &'a [u8]>,
    ) -> Result<BTreeSet<Vec<u8>>, WorkspaceError> {
        let input: Vec<u8> = paths.flat_map(|path| [path, b"\0"].concat()).collect();
        if input.is_empty() {
            return Ok(BTreeSet::new());
        }
        for (path, bytes) in &self.rules {
            if path == EXCLUDE {
                self.temp_repo.write("info/exclude", bytes)?;
            } else if path != INDEX && path != HEAD {
                let file = self.temp_repo.files().join(to_os(path));
                let dir = file.parent().unwrap_or(self.temp_repo.files());
                fs::create_dir_all(dir).map_err(writing(dir))?;
                fs::write(&file, bytes).map_err(writing(&file))?;
            }
        }
        let arguments =
            self.excludes.iter().map(String::as_str).chain(["check-ignore", "--no-index", "-z", "--stdin"]);
        match run(self.temp_repo.command(arguments), &input) {
            Ok(output) => Ok(output.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()),
            // git fails without a message if it ignores none.
            Err(GitError::Failed { stderr, .. }) if stderr.is_empty() => Ok(BTreeSet::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads the fetched files of `request`, and computes the changes.
    ///
    /// # Errors
    /// Returns an error if the stream is malformed or contains other files, or if git fails.
    pub fn into_changes(mut self, files: impl Read, request: FileRequest) -> Result<Changes, WorkspaceError> {
        let commit = self.record.commit();
        let (base, before) = match commit {
            Some(commit) => (commit.to_owned(), tree_entries(&self.temp_repo, commit)?),
            None => (empty_tree(&self.temp_repo)?, BTreeMap::new()),
        };
        let mut import = Import::start(&self.temp_repo)?;
        let mut received = BTreeMap::new();
        each_file(files, request, |path, mode, content| {
            let mark = import.blob(content)?;
            received.insert(path.to_vec(), (mode, format!(":{mark}")));
            Ok(())
        })?;
        let (current, left_out) = self.current_files(received, &before);
        import.commit(commit)?;
        // Delete first: a new directory may have a deleted file's name, and would be deleted with it.
        for path in before.keys().filter(|path| !current.contains_key(path.as_slice())) {
            import.delete(path)?;
        }
        for (path, (mode, id)) in current.iter().filter(|(path, blob)| before.get(**path) != Some(*blob)) {
            import.modify(*mode, id, path)?;
        }
        import.finish()?;
        let work = object_id(&self.temp_repo.run(&["rev-parse", "--verify", WORK], &[])?)?;
        let head = self.rules.remove(HEAD).unwrap_or_default();
        Ok(Changes { temp_repo: self.temp_repo, record: self.record, base, work, head, left_out })
    }

    /// Returns the current files and the paths left out. Files are taken from `received`, known blobs, and submodules
    /// in `before`.
    fn current_files(
        &self,
        mut received: BTreeMap<Vec<u8>, Blob>,
        before: &BTreeMap<Vec<u8>, Blob>,
    ) -> (BTreeMap<&[u8], Blob>, Vec<LeftOut>) {
        let (mut now, mut left_out) = (BTreeMap::new(), Vec::new());
        for file in &self.listed {
            let path = &file.path;
            let blob = received.remove(path).or_else(|| match file.kind {
                Kind::File | Kind::Link => self.known_blob(file).map(|(mode, id)| (mode, id.to_owned())),
                // A submodule stays unchanged.
                Kind::Repository => before.get(path).filter(|(mode, _)| *mode == GITLINK).cloned(),
                Kind::Unreadable | Kind::Special => None,
            });
            match (rejection(path), blob) {
                (Some(problem), _) => left_out.push((path.clone(), problem)),
                (None, None) => left_out.push((path.clone(), left_out_reason(file.kind))),
                (None, Some(blob)) => _ = now.insert(path.as_slice(), blob),
            }
        }
        (now, left_out)
    }
}

impl Changes {
    /// Returns the patch from the commit `base`, or from the commit that was sent, for `git apply`.
    ///
    /// # Errors
    /// Returns an error if git fails.
    pub fn patch(&self, base: Option<&str>) -> Result<Vec<u8>, WorkspaceError> {
        #[rustfmt::skip]
        let arguments = [
            "diff-tree", "-r", "-p", "--binary", "--full-index", "-M", "--no-color", "--no-ext-diff", "--no-textconv",
            "--src-prefix=a/", "--dst-prefix=b/", base.unwrap_or(&self.base), &self.work,
        ];
        Ok(self.temp_repo.run(&arguments, &[])?)
    }

    /// Returns the files that the patch changes.
    ///
    /// # Errors
    /// Returns an error if git fails.
    pub fn list(&self, base: Option<&str>) -> Result<Vec<Change>, WorkspaceError> {
        let arguments =
            ["diff-tree", "-r", "-z", "-M", "--name-status", base.unwrap_or(&self.base), &self.work];
        let listed = self.temp_repo.run(&arguments, &[])?;
        let mut words =
            listed.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        let mut changes = Vec::new();
        while let Some(status) = words.next().filter(|word| !word.is_empty()) {
            let mut next =
                || words.next().ok_or_else(|| unexpected_output("diff-tree", "a change without a path"));
            let (change, old_path) = match status.chars().next() {
                Some('A') => (ChangeKind::Added, None),
                Some('D') => (ChangeKind::Deleted, None),
                Some('R') => (ChangeKind::Renamed, Some(next()?)),
                Some('T') => (ChangeKind::TypeChanged, None),
                _ => (ChangeKind::Modified, None),
            };
            changes.push(Change { change, path: next()?, old_path });
        }
        Ok(changes)
    }

    pub(crate) fn temp_repo(&self) -> &TempRepository {
        &self.temp_repo
    }

    /// Returns the refs that received this workspace's work before.
    pub(crate) fn pulled(&self) -> &BTreeMap<String, String> {
        &self.record.state.pulled
    }

    /// Returns the workspace's directory in the guest.
    pub fn guest_path(&self) -> &[u8] {
        self.record.guest_path()
    }

    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    pub(crate) fn work(&self) -> &str {
        &self.work
    }

    /// Returns the commit that was sent.
    pub(crate) fn sent(&self) -> Option<&str> {
        self.record.commit()
    }

    /// Returns whether the commit `id` was ever sent.
    pub(crate) fn was_sent(&self, id: &str) -> bool {
        self.record.state.commits.contains(id)
    }

    /// Returns the guest's branch as `heads/NAME`, or `HEAD` if it is detached.
    pub(crate) fn head(&self) -> Option<&str> {
        let head = std::str::from_utf8(&self.head).ok()?.trim_end();
        match head.strip_prefix("ref: refs/") {
            Some(branch) => Some(branch),
            None if matches!(head.len(), 40 | 64) => Some("HEAD"),
            None => None,
        }
    }
}

/// Creates the empty tree, and returns its id.
fn empty_tree(temp_repo: &TempRepository) -> Result<String, WorkspaceError> {
    Ok(object_id(&temp_repo.run(&["hash-object", "-t", "tree", "-w", "--stdin"], &[])?)?)
}

/// Returns the reason why git would refuse a file at `path`.
fn rejection(path: &[u8]) -> Option<&'static str> {
    let looks_like_git = |name: &[u8]| {
        let name = name.to_ascii_lowercase();
        name == b".git" || name == b"git~1" || name.strip_prefix(b".git").is_some_and(is_padding)
    };
    path.split(|byte| *byte == b'/').any(looks_like_git).then_some("git rejects paths that look like .git")
}

/// Returns whether some file systems ignore `rest` at the end of a name.
fn is_padding(rest: &[u8]) -> bool {
    !rest.is_empty() && (rest.iter().all(|byte| matches!(byte, b' ' | b'.')) || rest.first() == Some(&b':'))
}

fn left_out_reason(kind: Kind) -> &'static str {
    match kind {
        Kind::File | Kind::Link => "it could not be read",
        Kind::Repository => "it is a separate repository",
        Kind::Unreadable => "it is a directory that could not be read",
        Kind::Special => "it is a device, pipe or socket",
    }
}

fn to_os(path: &[u8]) -> std::ffi::OsString {
    use std::os::unix::ffi::OsStringExt;
    std::ffi::OsString::from_vec(path.to_vec())
}

fn path_and_size(file: &ListedFile) -> (Vec<u8>, u64) {
    (file.path.clone(), file.size)
}

/// Calls `visit` with each file and link of `request` in a stream: its path, git's mode, and content. Incomplete files
/// are skipped.
fn each_file(
    input: impl Read,
    mut request: FileRequest,
    mut visit: impl FnMut(&[u8], u32, &mut dyn Read) -> Result<(), WorkspaceError>,
) -> Result<(), WorkspaceError> {
    let mut reader = Reader::new(input)?;
    match reader.next_item()? {
        Item::Directory(entry) if entry.name.is_empty() => {}
        _ => return Err(StreamError::Malformed("the first item is not an unnamed directory").into()),
    }
    let mut dirs: Vec<Vec<u8>> = Vec::new();
    loop {
        match reader.next_item()? {
            Item::End => return Ok(()),
            Item::Directory(entry) => {
                let path = joined(&dirs, &entry.name);
                request.enter(&path)?;
                dirs.push(path);
            }
            Item::Leave => _ = dirs.pop(),
            Item::Remove(_) => return Err(StreamError::Malformed("unexpected removal").into()),
            Item::Link(entry, target) => {
                let path = joined(&dirs, &entry.name);
                request.take(&path)?;
                visit(&path, LINK, &mut &*target)?;
            }
            Item::File(entry) => {
                let path = joined(&dirs, &entry.name);
                let mode = if entry.mode & 0o100 != 0 { PROGRAM } else { FILE };
                let max = request.take(&path)?;
                let mut content = spooled_tempfile(MAX_IN_MEMORY);
                let (size, complete) = read_content(&mut reader, &path, max, &mut content)?;
                request.record_size(max, size);
                if complete {
                    visit(&path, mode, &mut content)?;
                }
            }
        }
    }
}

fn joined(dirs: &[Vec<u8>], name: &[u8]) -> Vec<u8> {
    match dirs.last() {
        Some(dir) => [dir, &b"/"[..], name].concat(),
        None => name.to_vec(),
    }
}

/// Reads the current file, of at most `max` bytes, into `out`. Returns its size, and whether it is complete.
fn read_content(
    reader: &mut Reader<impl Read>,
    path: &[u8],
    max: u64,
    out: &mut SpooledTempFile,
) -> Result<(u64, bool), WorkspaceError> {
    let mut size = 0;
    loop {
        match reader.next_part()? {
            Part::Bytes(bytes) => {
                size += bytes.len() as u64;
                if size > max {
                    return Err(WorkspaceError::Grown(path.to_vec()));
                }
                out.write_all(bytes).map_err(writing(std::env::temp_dir()))?;
            }
            Part::Broken => return Ok((size, false)),
            Part::Complete => {
                io::Seek::rewind(out).map_err(writing(std::env::temp_dir()))?;
                return Ok((size, true));
            }
        }
    }
}

/// A running `git fast-import`: blobs as they arrive, then one commit.
struct Import {
    git: io::BufWriter<Process>,
    marks: usize,
}

impl Import {
    fn start(temp_repo: &TempRepository) -> Result<Self, WorkspaceError> {
        let arguments = ["-c", "fastimport.unpackLimit=1", FAST_IMPORT, "--quiet", "--force", "--done"];
        let git = temp_repo.command(arguments).start()?;
        Ok(Self { git: io::BufWriter::with_capacity(64 << 10, git), marks: 0 })
    }

    /// Sends a blob, and returns its mark.
    fn blob(&mut self, content: &mut dyn Read) -> Result<usize, WorkspaceError> {
        let mut bytes = spooled_tempfile(MAX_IN_MEMORY);
        let size = io::copy(content, &mut bytes).map_err(writing(std::env::temp_dir()))?;
        io::Seek::rewind(&mut bytes).map_err(writing(std::env::temp_dir()))?;
        self.marks += 1;
        self.send(format!("blob\nmark :{}\ndata {size}\n", self.marks).as_bytes())?;
        io::copy(&mut bytes, &mut self.git).map_err(import_error)?;
        self.send(b"\n")?;
        Ok(self.marks)
    }

    fn commit(&mut self, parent: Option<&str>) -> Result<(), WorkspaceError> {
        let mut head = format!("commit {WORK}\ncommitter banger <banger@localhost> 0 +0000\ndata 0\n");
        if let Some(parent) = parent {
            head.push_str(&format!("from {parent}\n"));
        }
        self.send(head.as_bytes())
    }

    fn modify(&mut self, mode: u32, id: &str, path: &[u8]) -> Result<(), WorkspaceError> {
        self.send(&[format!("M {mode:o} {id} ").as_bytes(), &quote(path), b"\n"].concat())
    }

    fn delete(&mut self, path: &[u8]) -> Result<(), WorkspaceError> {
        self.send(&[b"D ", &*quote(path), b"\n"].concat())
    }

    fn finish(mut self) -> Result<(), WorkspaceError> {
        self.send(b"\ndone\n")?;
        let git = self.git.into_inner().map_err(|error| import_error(error.into_error()))?;
        Ok(git.finish()?)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), WorkspaceError> {
        self.git.write_all(bytes).map_err(import_error)
    }
}

fn import_error(error: io::Error) -> WorkspaceError {
    GitError::from_io(FAST_IMPORT, error).into()
}

const FAST_IMPORT: &str = "fast-import";
