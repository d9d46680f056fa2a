//! The current state of a repository on the host: the files and commits to send to a guest.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    thread::{self, JoinHandle},
};

use banger_files::{FileStat, Time, Tree, safe_path};
use rustix::fs::FileType;

use crate::{
    Budget, Repository, TempRepository, WorkspaceError,
    cat_file::Objects,
    error::reading,
    git::{GitError, read_file, run, unexpected_output},
    guest_git::Checkout,
    history::{History, Lineage},
    index::{GITLINK, Index, IndexEntry, parse, parse_complete},
    objects::is_complete,
    record::Record,
};

/// The parts of a repository to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Files and recent history.
    #[default]
    Shallow,
    /// Recent history without files.
    Metadata,
}

/// Options of a snapshot.
#[derive(Debug, Clone)]
pub struct Options {
    /// Parts to send.
    pub mode: Mode,
    /// Number of generations of commits, at least one.
    pub depth: u32,
    /// Whether to send files that are neither tracked nor ignored.
    pub include_untracked: bool,
    /// Branch to create and check out in the guest.
    pub branch: Option<String>,
    /// Commit to check out in the guest, instead of the files on disk.
    pub from: Option<String>,
}

/// Source of a file's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FileSource {
    /// A file on the host's disk. `id` is its blob, if the index shows that the file is as staged.
    OnDisk { stat: FileStat, id: Option<String> },
    /// A blob.
    Blob { id: String, mode: u32, size: u64 },
}

/// The content of the index file, and its modification time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IndexFile {
    pub(crate) bytes: Vec<u8>,
    pub(crate) modified: Time,
}

/// The state of a repository to send to a guest.
#[derive(Debug)]
pub struct Snapshot {
    pub(crate) repository: Repository,
    pub(crate) temp_repo: TempRepository,
    pub(crate) tree: Tree,
    pub(crate) files: BTreeMap<Vec<u8>, FileSource>,
    pub(crate) checkout: Checkout,
    pub(crate) index: Option<IndexFile>,
    pub(crate) entries: Vec<IndexEntry>,
    /// Staged blobs that the checked-out commit does not have.
    pub(crate) staged: Vec<String>,
    lineage: Lineage,
    /// Number of files that are not sent because they are neither tracked nor ignored.
    pub(crate) left_out: usize,
    /// Nested repositories, which are not sent.
    pub(crate) repositories: Vec<Vec<u8>>,
}

impl Snapshot {
    /// Takes a snapshot of `repository`. git's temporary data is created in `cache`.
    ///
    /// # Errors
    /// Returns an error if it contains something that cannot be sent, or cannot be read.
    pub fn take(repository: Repository, options: &Options, cache: &Path) -> Result<Self, WorkspaceError> {
        if repository.is_partial_clone() {
            return Err(WorkspaceError::PartialClone);
        }
        let temp_repo = TempRepository::create(&repository, cache, &Budget::default())?;
        let tree = Tree::open(&repository.root).map_err(reading(&repository.root))?;
        let branch = options.branch.as_deref().map(|name| branch(&temp_repo, name)).transpose()?;
        let mut checkout = Checkout::of(&repository);
        if branch.is_some() {
            checkout.branch.clone_from(&branch);
        }
        let mut snapshot = Self {
            repository,
            temp_repo,
            tree,
            files: BTreeMap::new(),
            checkout,
            index: None,
            entries: Vec::new(),
            staged: Vec::new(),
            lineage: Lineage::default(),
            left_out: 0,
            repositories: Vec::new(),
        };
        if let Some(from) = &options.from {
            let commit = Some(snapshot.repository.commit(from)?);
            snapshot.checkout = Checkout { commit, branch, ..Checkout::default() };
        }
        let tips: Vec<_> = snapshot.checkout.commits().map(str::to_owned).collect();
        let lineage = snapshot.lineage(tips, options.depth.max(1))?;
        match &options.from {
            Some(_) => snapshot.read_commit()?,
            None => snapshot.read_work_tree(options.include_untracked)?,
        }
        snapshot.lineage =
            lineage.join().unwrap_or_else(|_| Err(unexpected_output("cat-file", "nothing").into()))?;
        if options.mode == Mode::Metadata {
            snapshot.files.clear();
        }
        // The remote that had promised them may have been removed since.
        if snapshot.repository.has_promisor_packs()?
            && !is_complete(&snapshot.temp_repo, &snapshot.history(None), &snapshot.staged)?
        {
            return Err(WorkspaceError::PartialClone);
        }
        Ok(snapshot)
    }

    /// Returns the files to send with their sizes in bytes, ordered by path.
    pub fn files(&self) -> impl Iterator<Item = (&[u8], u64)> {
        self.files.iter().map(|(path, content)| {
            let size = match content {
                FileSource::OnDisk { stat, .. } => stat.size,
                FileSource::Blob { size, .. } => *size,
            };
            (path.as_slice(), size)
        })
    }

    /// Returns the snapshot's repository.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Returns the commit to check out in the guest.
    pub fn commit(&self) -> Option<&str> {
        self.checkout.commit.as_deref()
    }

    /// Returns the branch to check out in the guest, without `refs/heads/`.
    pub fn branch(&self) -> Option<&str> {
        self.checkout.branch.as_deref().map(|name| name.strip_prefix("refs/heads/").unwrap_or(name))
    }

    /// Returns the number of files not sent because they are neither tracked nor ignored.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// Returns the nested repositories, which are not sent.
    pub fn repositories(&self) -> &[Vec<u8>] {
        &self.repositories
    }

    /// Returns the commits to send, without those that `record` lists.
    pub(crate) fn history(&self, record: Option<&Record>) -> History {
        let empty = BTreeSet::new();
        self.lineage.without(record.map_or(&empty, |record| &record.state.commits))
    }

    /// Reads the history of `tips` on another thread.
    fn lineage(
        &self,
        tips: Vec<String>,
        depth: u32,
    ) -> Result<JoinHandle<Result<Lineage, WorkspaceError>>, WorkspaceError> {
        let boundary = self.repository.shallow()?;
        let command = self.temp_repo.command(["cat-file", "--batch"]);
        Ok(thread::spawn(move || {
            if tips.is_empty() {
                return Ok(Lineage::default());
            }
            Lineage::of(&mut Objects::start(command)?, tips, depth, boundary)
        }))
    }

    /// Adds the files of the working tree.
    fn read_work_tree(&mut self, include_untracked: bool) -> Result<(), WorkspaceError> {
        let (entries, tree) = self.read_index()?;
        self.entries = entries;
        let submodules: Vec<_> = self
            .entries
            .iter()
            .filter(|entry| entry.mode == GITLINK)
            .map(|entry| entry.path.clone())
            .collect();
        if !submodules.is_empty() {
            return Err(WorkspaceError::Submodules(submodules));
        }
        let entries = std::mem::take(&mut self.entries);
        let written = self.index.as_ref().map_or(Time::default(), |index| index.modified);
        for entry in &entries {
            self.add_tracked(entry, written)?;
        }
        let (staged, untracked) = thread::scope(|scope| {
            let staged = scope.spawn(|| self.staged(&entries, tree.as_deref()));
            let untracked = self.untracked();
            (staged.join().unwrap_or_else(|_| Err(unexpected_output("ls-tree", "nothing").into())), untracked)
        });
        self.staged = staged?;
        self.entries = entries;
        for path in untracked?.split(|byte| *byte == 0).filter(|path| !path.is_empty()) {
            if let Some(repository) = path.strip_suffix(b"/") {
                self.repositories.push(repository.to_vec());
            } else if !include_untracked {
                self.left_out += 1;
            } else if let Some(stat) = self.stat(path)?.filter(|_| safe_path(path)) {
                self.files.insert(path.to_vec(), FileSource::OnDisk { stat, id: None });
            }
        }
        Ok(())
    }

    fn add_tracked(&mut self, entry: &IndexEntry, written: Time) -> Result<(), WorkspaceError> {
        if !safe_path(&entry.path) {
            return Err(WorkspaceError::Path {
                path: entry.path.clone(),
                problem: "it is nested too deeply",
            });
        }
        let Some(stat) = self.stat(&entry.path)? else { return Ok(()) };
        let id = matches_index(entry, &stat, written).then(|| entry.id.clone());
        self.files.insert(entry.path.clone(), FileSource::OnDisk { stat, id });
        Ok(())
    }

    /// Returns the metadata of the file or link at `path`.
    fn stat(&self, path: &[u8]) -> Result<Option<FileStat>, WorkspaceError> {
        let stat = self.tree.stat(path).map_err(reading(String::from_utf8_lossy(path).into_owned()))?;
        Ok(stat.filter(|stat| matches!(stat.file_type(), FileType::RegularFile | FileType::Symlink)))
    }

    /// Reads the index, expanded, and returns its entries and the tree that it records.
    fn read_index(&mut self) -> Result<(Vec<IndexEntry>, Option<String>), WorkspaceError> {
        let Some(bytes) = self.repository.index()? else { return Ok((Vec::new(), None)) };
        let path = self.repository.git_dir.join("index");
        let modified = Tree::open(&self.repository.git_dir)
            .and_then(|tree| tree.stat(b"index"))
            .map_err(reading(&path))?
            .map_or(Time::default(), |stat| stat.modified);
        self.temp_repo.write("index", &bytes)?;
        let location = self.repository.root.display().to_string();
        let (bytes, entries, tree) = match parse(&bytes, self.repository.id_length()) {
            Ok(Index::Complete(entries, tree)) => (bytes, entries, tree),
            Ok(Index::Incomplete) => {
                let (bytes, entries) = self.expand_index(&location)?;
                (bytes, entries, None)
            }
            Err(problem) => return Err(WorkspaceError::Index { location, problem }),
        };
        self.index = Some(IndexFile { bytes, modified });
        Ok((entries, tree))
    }

    /// Lets git combine all parts of the index into one file.
    fn expand_index(&self, location: &str) -> Result<(Vec<u8>, Vec<IndexEntry>), WorkspaceError> {
        let git_dir = &self.repository.git_dir;
        for name in
            std::fs::read_dir(git_dir).map_err(reading(git_dir))?.flatten().map(|entry| entry.file_name())
        {
            if let Some(name) = name.to_str().filter(|name| name.starts_with("sharedindex.")) {
                let path = git_dir.join(name);
                if let Some(shared) = read_file(&path).map_err(reading(path))? {
                    self.temp_repo.write(name, &shared)?;
                }
            }
        }
        #[rustfmt::skip]
        let arguments = [
            "-c", "core.sparseCheckout=true", "-c", "core.sparseCheckoutCone=true", "-c", "index.sparse=false",
            "-c", "core.splitIndex=false", "update-index", "--no-split-index", "--force-write-index",
        ];
        let mut command = self.temp_repo.command(arguments);
        command.env("GIT_INDEX_FILE", self.temp_repo.path().join("index"));
        run(command, &[])?;
        let path = self.temp_repo.path().join("index");
        let bytes = std::fs::read(&path).map_err(reading(path))?;
        let entries = parse_complete(&bytes, self.repository.id_length(), location)?;
        Ok((bytes, entries))
    }

    /// Returns the blobs of the index that the commit does not have. `tree` is the index's tree, if known.
    fn staged(&self, entries: &[IndexEntry], tree: Option<&str>) -> Result<Vec<String>, WorkspaceError> {
        let has_intent_to_add = entries.iter().any(|entry| entry.intent_to_add);
        if tree.is_some() && tree == self.repository.tree.as_deref() && !has_intent_to_add {
            return Ok(Vec::new());
        }
        let committed = match &self.checkout.commit {
            Some(commit) => tree_entries(&self.temp_repo, commit)?,
            None => BTreeMap::new(),
        };
        if has_intent_to_add {
            // Such entries name the empty blob, which not every repository has.
            self.temp_repo.run(&["hash-object", "-w", "--stdin"], &[])?;
        }
        let mut staged: Vec<_> = entries
            .iter()
            .filter(|entry| committed.get(&entry.path).is_none_or(|(_, id)| *id != entry.id))
            .map(|entry| entry.id.clone())
            .collect();
        staged.sort_unstable();
        staged.dedup();
        Ok(staged)
    }

    /// Returns untracked files that are not ignored, each terminated by a zero byte. Nested repositories end in a
    /// slash.
    fn untracked(&self) -> Result<Vec<u8>, WorkspaceError> {
        let exclude = self.repository.common_dir.join("info/exclude");
        if let Some(patterns) = read_file(&exclude).map_err(reading(exclude))? {
            self.temp_repo.write("info/exclude", &patterns)?;
        }
        let excludes = excludes_file(&self.repository);
        let arguments =
            excludes.iter().map(String::as_str).chain(["ls-files", "-z", "--others", "--exclude-standard"]);
        let mut command = self.temp_repo.command_in(&self.repository.root, arguments);
        command.env("GIT_INDEX_FILE", self.temp_repo.path().join("index"));
        Ok(run(command, &[])?)
    }

    /// Adds the files of the commit.
    fn read_commit(&mut self) -> Result<(), WorkspaceError> {
        let Some(commit) = self.checkout.commit.clone() else { return Ok(()) };
        let mut submodules = Vec::new();
        let mut staging = Vec::new();
        let arguments = ["ls-tree", "-r", "-z", "-l", "--full-tree", &commit];
        for TreeEntry { path, mode, id, size } in list_tree(&self.temp_repo, &arguments)? {
            if mode == GITLINK {
                submodules.push(path);
                continue;
            }
            if !safe_path(&path) {
                return Err(WorkspaceError::Path { path, problem: "it is nested too deeply" });
            }
            staging.extend_from_slice(format!("{mode:o} {id} 0\t").as_bytes());
            staging.extend_from_slice(&path);
            staging.push(0);
            self.files.insert(path, FileSource::Blob { id, mode, size });
        }
        if !submodules.is_empty() {
            return Err(WorkspaceError::Submodules(submodules));
        }
        let index = self.temp_repo.path().join("index");
        let mut command = self.temp_repo.command(["update-index", "-z", "--index-info"]);
        command.env("GIT_INDEX_FILE", &index);
        run(command, &staging)?;
        if !staging.is_empty() {
            let bytes = std::fs::read(&index).map_err(reading(index))?;
            self.entries = parse_complete(&bytes, self.repository.id_length(), "the temporary repository")?;
            self.index = Some(IndexFile { bytes, modified: Time::now() });
        }
        Ok(())
    }
}

/// Returns whether a file matches its index entry by size and time, as git compares them. `written` is the index's
/// time.
fn matches_index(entry: &IndexEntry, stat: &FileStat, written: Time) -> bool {
    let kind = match stat.file_type() {
        FileType::Symlink => 0o120_000,
        _ if stat.mode & 0o100 != 0 => 0o100_755,
        _ => 0o100_644,
    };
    entry.stage == 0
        && !entry.intent_to_add
        && entry.mode == kind
        && entry.modified.seconds == stat.modified.seconds
        && u64::from(entry.size) == stat.size & u64::from(u32::MAX)
        // A file modified in the second in which the index was written may have changed after git read it.
        && stat.modified.seconds < written.seconds
}

/// Returns arguments that make git apply the user's global excludes.
pub(crate) fn excludes_file(repository: &Repository) -> Vec<String> {
    let Some(path) = repository.config.get("core.excludesfile") else { return Vec::new() };
    vec!["-c".to_owned(), format!("core.excludesFile={}", String::from_utf8_lossy(path))]
}

fn branch(temp_repo: &TempRepository, name: &str) -> Result<String, WorkspaceError> {
    let full = format!("refs/heads/{name}");
    match temp_repo.run(&["check-ref-format", &full], &[]) {
        Ok(_) if !name.starts_with('-') => Ok(full),
        Ok(_) | Err(GitError::Failed { .. }) => Err(WorkspaceError::BranchName(name.to_owned())),
        Err(error) => Err(error.into()),
    }
}

/// A file in a commit's tree.
#[derive(Debug)]
struct TreeEntry {
    path: Vec<u8>,
    mode: u32,
    id: String,
    /// Size in bytes; 0 if it was not requested.
    size: u64,
}

/// Returns the files of a commit: mode and id by path.
pub(crate) fn tree_entries(
    temp_repo: &TempRepository,
    commit: &str,
) -> Result<BTreeMap<Vec<u8>, (u32, String)>, WorkspaceError> {
    let entries = list_tree(temp_repo, &["ls-tree", "-r", "-z", "--full-tree", commit])?;
    Ok(entries.into_iter().map(|entry| (entry.path, (entry.mode, entry.id))).collect())
}

/// Maximum size of a list of a commit's files, in bytes. A few small trees in each other can name any number of files.
const MAX_TREE: usize = 256 << 20;

fn list_tree(temp_repo: &TempRepository, arguments: &[&str]) -> Result<Vec<TreeEntry>, WorkspaceError> {
    let listed = temp_repo.limited_run(arguments, &[], "files in a commit", MAX_TREE)?;
    let lines = listed.split(|byte| *byte == 0).filter(|line| !line.is_empty());
    let entry = |line| {
        let (words, path) = words(line)?;
        let (mode, id, size) = match words.as_slice() {
            [mode, _, id] => (mode, id, 0),
            // A submodule has no size.
            [mode, _, id, size] => (mode, id, size.parse().unwrap_or(0)),
            _ => return Err(unexpected_output("ls-tree", "a malformed line").into()),
        };
        let mode =
            u32::from_str_radix(mode, 8).map_err(|error| unexpected_output("ls-tree", error.to_string()))?;
        Ok(TreeEntry { path, mode, id: (*id).to_owned(), size })
    };
    lines.map(entry).collect()
}

/// Splits a line into the words before the tab and the path after it.
fn words(line: &[u8]) -> Result<(Vec<&str>, Vec<u8>), GitError> {
    let tab = line
        .iter()
        .position(|byte| *byte == b'\t')
        .ok_or_else(|| unexpected_output("ls-tree", "a line without a path"))?;
    let head = std::str::from_utf8(line.get(..tab).unwrap_or_default());
    let head = head.map_err(|error| unexpected_output("ls-tree", error.to_string()))?;
    Ok((head.split_whitespace().collect(), line.get(tab + 1..).unwrap_or_default().to_vec()))
}
