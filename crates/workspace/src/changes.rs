//! Computes a guest's changes as a patch, from its listing and changed files, with the host's git. The guest's git is
//! not involved. Of its `.git`, only the index and the excludes are read, as data.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read,
    path::Path,
};

use banger_files::{FileRequest, Kind, ListedFile, safe_path};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    Budget, LeftOut, Record, Repository, TempRepository, WorkspaceError,
    error::writing,
    existing::existing,
    git::{GitError, run, unexpected_output},
    import::Import,
    index::{GITLINK, Index, is_same_index, parse},
    received::{Spool, check_small_files, each_file},
    repository::object_id,
    size::size_text,
    snapshot::{excludes_file, tree_entries},
};

const INDEX: &[u8] = b".git/index";
const EXCLUDE: &[u8] = b".git/info/exclude";

/// Maximum size of a file buffered in memory before git receives it, in bytes. Larger ones go to disk.
const MAX_IN_MEMORY: usize = 8 << 20;

/// Maximum size of a patch, in bytes. It is in memory; `pull` has no such limit.
const MAX_PATCH: usize = 1 << 30;

/// A guest's workspace, seen from the host.
#[derive(Debug)]
pub struct Guest {
    record: Record,
    temp_repo: TempRepository,
    /// git arguments for the user's global excludes.
    excludes: Vec<String>,
    listed: Vec<ListedFile>,
    /// The content of the ignore files and the index.
    rules: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Files that the index has instead of the working tree, as in a sparse checkout.
    skipped: BTreeMap<Vec<u8>, Blob>,
    /// Sent objects that the host has deleted since.
    missing: BTreeSet<String>,
}

/// git's mode of a file, and its blob: an id, or a mark of the import.
type Blob = (u32, String);

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
    /// Whether no file is new, changed or deleted since the workspace was sent.
    files_are_as_sent: bool,
    /// Paths in the guest that are left out of the changes.
    pub left_out: Vec<LeftOut>,
}

impl Guest {
    /// Opens the workspace of `record`, with the guest's listing `listed`. git's temporary data is created in
    /// `cache`, within `budget`.
    ///
    /// # Errors
    /// Returns an error if the cache cannot be written.
    pub fn new(
        repository: &Repository,
        record: Record,
        listed: Vec<ListedFile>,
        cache: &Path,
        budget: &Budget,
    ) -> Result<Self, WorkspaceError> {
        let temp_repo = TempRepository::create_for_guest(repository, cache, budget)?;
        let listed = listed.into_iter().filter(|file| safe_path(&file.path)).collect();
        let excludes = excludes_file(repository);
        // Others are reachable from that commit.
        let mut missing: BTreeSet<_> = record.state.staged.clone();
        missing.extend(record.commit().map(str::to_owned));
        let existing = existing(&temp_repo, &missing)?;
        missing.retain(|id| !existing.contains(id));
        let (rules, skipped) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { record, temp_repo, excludes, listed, rules, skipped, missing })
    }

    /// Opens another working tree of the guest `main`, whose objects it shares. Its index and the repository's exclude
    /// patterns are known.
    pub(crate) fn sharing(
        repository: &Repository,
        main: &Changes,
        record: Record,
        listed: Vec<ListedFile>,
        index: Option<Vec<u8>>,
        excludes: Option<Vec<u8>>,
    ) -> Result<Self, WorkspaceError> {
        let cache = main.temp_repo.path().join("worktrees");
        let mut guest = Self::new(repository, record, listed, &cache, main.temp_repo.budget())?;
        guest.temp_repo.borrow_objects(&main.temp_repo)?;
        let rules = [(INDEX, index), (EXCLUDE, excludes)];
        guest.rules = rules.into_iter().filter_map(|(path, bytes)| Some((path.to_vec(), bytes?))).collect();
        Ok(guest)
    }

    pub(crate) fn record(&self) -> &Record {
        &self.record
    }

    pub(crate) fn temp_repo(&self) -> &TempRepository {
        &self.temp_repo
    }

    /// Returns whether objects have to be fetched from the guest's git, whatever its refs are: something else is staged
    /// than was sent, or the host has deleted the commit that was sent. Call it after
    /// [`files_to_fetch`](Self::files_to_fetch).
    pub fn needs_objects(&self) -> bool {
        self.has_own_index() || self.record.commit().is_some_and(|commit| self.missing.contains(commit))
    }

    /// Returns whether other content is staged than was sent.
    pub(crate) fn has_own_index(&self) -> bool {
        match (self.rules.get(INDEX), &self.record.index) {
            (Some(now), Some(then)) => !is_same_index(now, then, self.record.state.id_length),
            (now, _) => now.is_some(),
        }
    }

    /// Returns the ignore files and the index, which have to be fetched first.
    ///
    /// # Errors
    /// Returns an error if there are too many, or if they are too large.
    pub fn rule_files(&self) -> Result<FileRequest, WorkspaceError> {
        let is_rule_file = |file: &&ListedFile| {
            file.kind == Kind::File
                && (file.path == INDEX
                    || file.path == EXCLUDE
                    || file.path == b".gitignore"
                    || file.path.ends_with(b"/.gitignore"))
        };
        let request = FileRequest::new(self.listed.iter().filter(is_rule_file).map(path_and_size));
        check_small_files(&request)?;
        Ok(request)
    }

    /// Accepts the fetched `rules`, and returns the files to fetch next.
    ///
    /// These are all files of the workspace whose content is not known to be as sent.
    ///
    /// # Errors
    /// Returns an error if git cannot determine what is ignored, or if the files are too large.
    pub fn files_to_fetch(
        &mut self,
        rules: BTreeMap<Vec<u8>, Vec<u8>>,
    ) -> Result<FileRequest, WorkspaceError> {
        self.rules.extend(rules);
        let tracked = self.tracked()?;
        let is_included = |file: &ListedFile| tracked.contains(&file.path) || file.kind == Kind::Repository;
        self.listed.retain(|file| file.path != b".git" && !file.path.starts_with(b".git/"));
        let ignored = self.ignored(self.listed.iter().filter(|file| !is_included(file)))?;
        self.listed.retain(|file| is_included(file) || !ignored.contains(&file.path));
        let unknown = self.listed.iter().filter(|file| matches!(file.kind, Kind::File | Kind::Link));
        let request =
            FileRequest::new(unknown.filter(|file| self.known_blob(file).is_none()).map(path_and_size));
        let budget = self.temp_repo.budget();
        if request.size() > budget.files {
            return Err(WorkspaceError::TooLarge { what: "changed files", limit: size_text(budget.files) });
        }
        // A file is stored once to measure it, and once in a pack.
        budget.check_space(self.temp_repo.path(), request.size().saturating_add(request.largest()))?;
        Ok(request)
    }

    /// Returns a file's mode and blob, if it is as sent, and was as staged then.
    fn known_blob(&self, file: &ListedFile) -> Option<(u32, &str)> {
        let sent = self.record.files.get(&file.path).filter(|sent| sent.is_unchanged(file))?;
        Some((sent.mode, sent.id.as_deref().filter(|id| !self.missing.contains(*id))?))
    }

    /// Returns the paths that the guest tracks.
    fn tracked(&mut self) -> Result<BTreeSet<Vec<u8>>, WorkspaceError> {
        let index = self.rules.get(INDEX).map(|bytes| parse(bytes, self.record.state.id_length));
        if let Some(Ok(Index::Complete(entries, _))) = index {
            let skipped = entries.iter().filter(|entry| entry.skip_worktree && entry.stage == 0);
            self.skipped =
                skipped.map(|entry| (entry.path.clone(), (entry.mode, entry.id.clone()))).collect();
            return Ok(entries.into_iter().map(|entry| entry.path).collect());
        }
        // Without a readable index, the commit's paths.
        match self.record.commit() {
            Some(commit) => Ok(tree_entries(&self.temp_repo, commit)?.into_keys().collect()),
            None => Ok(BTreeSet::new()),
        }
    }

    /// Returns the paths of those of `files` that the guest's or the user's global rules ignore.
    fn ignored<'a>(
        &self,
        files: impl Iterator<Item = &'a ListedFile>,
    ) -> Result<BTreeSet<Vec<u8>>, WorkspaceError> {
        let end = |file: &ListedFile| if file.kind == Kind::Unreadable { &b"/\0"[..] } else { b"\0" };
        let input: Vec<u8> = files.flat_map(|file| [file.path.as_slice(), end(file)].concat()).collect();
        if input.is_empty() {
            return Ok(BTreeSet::new());
        }
        for (path, bytes) in &self.rules {
            if path == EXCLUDE {
                self.temp_repo.write("info/exclude", bytes)?;
            } else if path != INDEX {
                let file = self.temp_repo.files().join(to_os(path));
                let dir = file.parent().unwrap_or(self.temp_repo.files());
                fs::create_dir_all(dir).map_err(writing(dir))?;
                fs::write(&file, bytes).map_err(writing(&file))?;
            }
        }
        let arguments =
            self.excludes.iter().map(String::as_str).chain(["check-ignore", "--no-index", "-z", "--stdin"]);
        match run(self.temp_repo.command(arguments), &input) {
            Ok(output) => {
                let paths = output.split(|byte| *byte == 0);
                Ok(paths.map(|path| path.strip_suffix(b"/").unwrap_or(path).to_vec()).collect())
            }
            // git fails without a message if it ignores none.
            Err(GitError::Failed { stderr, .. }) if stderr.is_empty() => Ok(BTreeSet::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads the fetched files of `request`, and computes the changes.
    ///
    /// # Errors
    /// Returns an error if the stream is malformed or contains other files, or if git fails.
    pub fn into_changes(self, files: impl Read, request: FileRequest) -> Result<Changes, WorkspaceError> {
        let commit = self.record.commit();
        let (base, before) = match commit {
            Some(commit) => (commit.to_owned(), tree_entries(&self.temp_repo, commit)?),
            None => (empty_tree(&self.temp_repo)?, BTreeMap::new()),
        };
        let mut import = Import::start(&self.temp_repo)?;
        let mut received = BTreeMap::new();
        let spool = Spool { memory: MAX_IN_MEMORY, dir: self.temp_repo.path() };
        each_file(files, request, spool, |path, mode, size, content| {
            let mark = import.blob(size, content)?;
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
        let work = import.finish(&self.temp_repo)?;
        let files_are_as_sent = self.files_are_as_sent();
        Ok(Changes {
            temp_repo: self.temp_repo,
            record: self.record,
            base,
            work,
            files_are_as_sent,
            left_out,
        })
    }

    /// Returns whether no file is new, changed or deleted since the workspace was sent. Ignored files do not count.
    fn files_are_as_sent(&self) -> bool {
        let sent = &self.record.files;
        let listed: BTreeSet<_> = self.listed.iter().map(|file| file.path.as_slice()).collect();
        let is_as_sent = |file: &ListedFile| sent.get(&file.path).is_some_and(|sent| sent.is_unchanged(file));
        let mut paths = sent.keys().filter(|path| !path.starts_with(b".git/"));
        self.listed.iter().all(is_as_sent) && paths.all(|path| listed.contains(path.as_slice()))
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
                (Some(reason), _) => {
                    left_out.push(LeftOut { path: path.clone(), reason, is_work: true });
                }
                (None, None) => left_out.push(left_out_file(file)),
                (None, Some(blob)) => _ = now.insert(path.as_slice(), blob),
            }
        }
        for (path, blob) in &self.skipped {
            now.entry(path.as_slice()).or_insert_with(|| blob.clone());
        }
        (now, left_out)
    }
}

impl Changes {
    /// Returns the patch from the commit `base`, or from the commit that was sent, for `git apply`.
    ///
    /// # Errors
    /// Returns an error if git fails, or if the patch is too large.
    pub fn patch(&self, base: Option<&str>) -> Result<Vec<u8>, WorkspaceError> {
        #[rustfmt::skip]
        let arguments = [
            "diff-tree", "-r", "-p", "--binary", "--full-index", "-M", "--no-color", "--no-ext-diff", "--no-textconv",
            "--src-prefix=a/", "--dst-prefix=b/", base.unwrap_or(&self.base), &self.work,
        ];
        self.temp_repo.limited_run(&arguments, &[], "changes", MAX_PATCH)
    }

    /// Returns the files that the patch changes.
    ///
    /// # Errors
    /// Returns an error if git fails, or if they are too many.
    pub fn list(&self, base: Option<&str>) -> Result<Vec<Change>, WorkspaceError> {
        let arguments =
            ["diff-tree", "-r", "-z", "-M", "--name-status", base.unwrap_or(&self.base), &self.work];
        let listed = self.temp_repo.limited_run(&arguments, &[], "changes", MAX_PATCH)?;
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

    /// Returns whether no file is new, changed or deleted since the workspace was sent.
    pub(crate) fn files_are_as_sent(&self) -> bool {
        self.files_are_as_sent
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

    /// Returns all commits that were ever sent.
    pub(crate) fn sent_commits(&self) -> &BTreeSet<String> {
        &self.record.state.commits
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

fn left_out_file(file: &ListedFile) -> LeftOut {
    let (reason, is_work) = match file.kind {
        Kind::File | Kind::Link => ("it could not be read", true),
        Kind::Unreadable => ("it is a directory that could not be read", true),
        Kind::Repository => ("it is a separate repository", false),
        Kind::Special => ("it is a device, pipe or socket", false),
    };
    LeftOut { path: file.path.clone(), reason, is_work }
}

fn to_os(path: &[u8]) -> std::ffi::OsString {
    use std::os::unix::ffi::OsStringExt;
    std::ffi::OsString::from_vec(path.to_vec())
}

fn path_and_size(file: &ListedFile) -> (Vec<u8>, u64) {
    (file.path.clone(), file.size)
}
