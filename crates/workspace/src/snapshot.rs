//! The current state of a repository on the host: the files and commits to send to a guest.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    thread::{self, JoinHandle},
};

use banger_files::{FileStat, Time, Tree, safe_path};
use rustix::fs::FileType;

use crate::{
    Repository, Scratch, WorkspaceError,
    error::reading,
    git::{GitError, Objects, odd, run},
    guest_git::CheckedOut,
    history::{History, Lineage},
    index::{GITLINK, Index, IndexEntry, parse, parse_whole},
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
    OnDisk { found: FileStat, id: Option<String> },
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
    pub(crate) scratch: Scratch,
    pub(crate) tree: Tree,
    pub(crate) files: BTreeMap<Vec<u8>, FileSource>,
    pub(crate) out: CheckedOut,
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
        let scratch = Scratch::of(&repository, cache)?;
        let tree = Tree::open(&repository.root).map_err(reading(&repository.root))?;
        let branch = options.branch.as_deref().map(|name| branch(&scratch, name)).transpose()?;
        let mut out = CheckedOut::of(&repository);
        if branch.is_some() {
            out.branch.clone_from(&branch);
        }
        let mut snapshot = Self {
            repository,
            scratch,
            tree,
            files: BTreeMap::new(),
            out,
            index: None,
            entries: Vec::new(),
            staged: Vec::new(),
            lineage: Lineage::default(),
            left_out: 0,
            repositories: Vec::new(),
        };
        if let Some(from) = &options.from {
            let commit = Some(snapshot.repository.commit(from)?);
            snapshot.out = CheckedOut { commit, branch, ..CheckedOut::default() };
        }
        let tips: Vec<_> = snapshot.out.commits().map(str::to_owned).collect();
        let lineage = snapshot.lineage(tips, options.depth.max(1))?;
        match &options.from {
            Some(_) => snapshot.take_commit()?,
            None => snapshot.take_disk(options.include_untracked)?,
        }
        snapshot.lineage = lineage.join().unwrap_or_else(|_| Err(odd("cat-file", "nothing").into()))?;
        if options.mode == Mode::Metadata {
            snapshot.files.clear();
        }
        Ok(snapshot)
    }

    /// Returns the files to send with their sizes in bytes, ordered by path.
    pub fn files(&self) -> impl Iterator<Item = (&[u8], u64)> {
        self.files.iter().map(|(path, content)| {
            let size = match content {
                FileSource::OnDisk { found, .. } => found.size,
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
        self.out.commit.as_deref()
    }

    /// Returns the branch to check out in the guest, without `refs/heads/`.
    pub fn branch(&self) -> Option<&str> {
        self.out.branch.as_deref().map(|name| name.strip_prefix("refs/heads/").unwrap_or(name))
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
        let none = BTreeSet::new();
        self.lineage.without(record.map_or(&none, |record| &record.known.commits))
    }

    /// Reads the history of `tips` on another thread.
    fn lineage(
        &self,
        tips: Vec<String>,
        depth: u32,
    ) -> Result<JoinHandle<Result<Lineage, WorkspaceError>>, WorkspaceError> {
        let ends = self.repository.shallow()?;
        let command = self.scratch.command(["cat-file", "--batch"]);
        Ok(thread::spawn(move || {
            if tips.is_empty() {
                return Ok(Lineage::default());
            }
            Lineage::of(&mut Objects::begin(command)?, tips, depth, ends)
        }))
    }

    /// Adds the files of the working tree.
    fn take_disk(&mut self, include_untracked: bool) -> Result<(), WorkspaceError> {
        let (entries, tree) = self.take_index()?;
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
            self.tracked(entry, written)?;
        }
        let (staged, untracked) = thread::scope(|scope| {
            let staged = scope.spawn(|| self.staged(&entries, tree.as_deref()));
            let untracked = self.untracked();
            (staged.join().unwrap_or_else(|_| Err(odd("ls-tree", "nothing").into())), untracked)
        });
        self.staged = staged?;
        self.entries = entries;
        for path in untracked?.split(|byte| *byte == 0).filter(|path| !path.is_empty()) {
            if let Some(repository) = path.strip_suffix(b"/") {
                self.repositories.push(repository.to_vec());
            } else if !include_untracked {
                self.left_out += 1;
            } else if let Some(found) = self.look(path)?.filter(|_| safe_path(path)) {
                self.files.insert(path.to_vec(), FileSource::OnDisk { found, id: None });
            }
        }
        Ok(())
    }

    fn tracked(&mut self, entry: &IndexEntry, written: Time) -> Result<(), WorkspaceError> {
        if !safe_path(&entry.path) {
            return Err(WorkspaceError::Path { path: entry.path.clone(), why: "it is nested too deeply" });
        }
        let Some(found) = self.look(&entry.path)? else { return Ok(()) };
        let id = is_as_staged(entry, &found, written).then(|| entry.id.clone());
        self.files.insert(entry.path.clone(), FileSource::OnDisk { found, id });
        Ok(())
    }

    /// Returns the metadata of the file or link at `path`.
    fn look(&self, path: &[u8]) -> Result<Option<FileStat>, WorkspaceError> {
        let found = self.tree.look(path).map_err(reading(String::from_utf8_lossy(path).into_owned()))?;
        Ok(found.filter(|found| matches!(found.file_type(), FileType::RegularFile | FileType::Symlink)))
    }

    /// Reads the index, expanded, and returns its entries and the tree that it records.
    fn take_index(&mut self) -> Result<(Vec<IndexEntry>, Option<String>), WorkspaceError> {
        let Some(bytes) = self.repository.index()? else { return Ok((Vec::new(), None)) };
        let path = self.repository.own.join("index");
        let modified = Tree::open(&self.repository.own)
            .and_then(|tree| tree.look(b"index"))
            .map_err(reading(&path))?
            .map_or(Time::default(), |found| found.modified);
        self.scratch.write("index", &bytes)?;
        let place = self.repository.root.display().to_string();
        let (bytes, entries, tree) = match parse(&bytes, self.repository.id_length()) {
            Ok(Index::Whole(entries, tree)) => (bytes, entries, tree),
            Ok(Index::Folded) => {
                let (bytes, entries) = self.unfolded(&place)?;
                (bytes, entries, None)
            }
            Err(why) => return Err(WorkspaceError::Index { place, why }),
        };
        self.index = Some(IndexFile { bytes, modified });
        Ok((entries, tree))
    }

    /// Lets git combine all parts of the index into one file.
    fn unfolded(&self, place: &str) -> Result<(Vec<u8>, Vec<IndexEntry>), WorkspaceError> {
        let own = &self.repository.own;
        for name in std::fs::read_dir(own).map_err(reading(own))?.flatten().map(|entry| entry.file_name()) {
            if let Some(name) = name.to_str().filter(|name| name.starts_with("sharedindex.")) {
                let part = std::fs::read(own.join(name)).map_err(reading(own.join(name)))?;
                self.scratch.write(name, &part)?;
            }
        }
        #[rustfmt::skip]
        let arguments = [
            "-c", "core.sparseCheckout=true", "-c", "core.sparseCheckoutCone=true", "-c", "index.sparse=false",
            "-c", "core.splitIndex=false", "update-index", "--no-split-index", "--force-write-index",
        ];
        let mut command = self.scratch.command(arguments);
        command.env("GIT_INDEX_FILE", self.scratch.path().join("index"));
        run(command, &[])?;
        let path = self.scratch.path().join("index");
        let bytes = std::fs::read(&path).map_err(reading(path))?;
        let entries = parse_whole(&bytes, self.repository.id_length(), place)?;
        Ok((bytes, entries))
    }

    /// Returns the blobs of the index that the commit does not have. `tree` is the index's tree, if known.
    fn staged(&self, entries: &[IndexEntry], tree: Option<&str>) -> Result<Vec<String>, WorkspaceError> {
        let announced = entries.iter().any(|entry| entry.intent_to_add);
        if tree.is_some() && tree == self.repository.tree.as_deref() && !announced {
            return Ok(Vec::new());
        }
        let committed = match &self.out.commit {
            Some(commit) => tree_entries(&self.scratch, commit)?,
            None => BTreeMap::new(),
        };
        if announced {
            // Such entries name the empty blob, which not every repository has.
            self.scratch.run(&["hash-object", "-w", "--stdin"], &[])?;
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
        let exclude = self.repository.common.join("info/exclude");
        if let Some(patterns) = crate::git::read_file(&exclude).map_err(reading(exclude))? {
            self.scratch.write("info/exclude", &patterns)?;
        }
        let excludes = excludes_file(&self.repository);
        let arguments =
            excludes.iter().map(String::as_str).chain(["ls-files", "-z", "--others", "--exclude-standard"]);
        let mut command = self.scratch.command_over(&self.repository.root, arguments);
        command.env("GIT_INDEX_FILE", self.scratch.path().join("index"));
        Ok(run(command, &[])?)
    }

    /// Adds the files of the commit.
    fn take_commit(&mut self) -> Result<(), WorkspaceError> {
        let Some(commit) = self.out.commit.clone() else { return Ok(()) };
        let mut submodules = Vec::new();
        let mut staging = Vec::new();
        let arguments = ["ls-tree", "-r", "-z", "-l", "--full-tree", &commit];
        for TreeEntry { path, mode, id, size } in list_tree(&self.scratch, &arguments)? {
            if mode == GITLINK {
                submodules.push(path);
                continue;
            }
            if !safe_path(&path) {
                return Err(WorkspaceError::Path { path, why: "it is nested too deeply" });
            }
            staging.extend_from_slice(format!("{mode:o} {id} 0\t").as_bytes());
            staging.extend_from_slice(&path);
            staging.push(0);
            self.files.insert(path, FileSource::Blob { id, mode, size });
        }
        if !submodules.is_empty() {
            return Err(WorkspaceError::Submodules(submodules));
        }
        let index = self.scratch.path().join("index");
        let mut command = self.scratch.command(["update-index", "-z", "--index-info"]);
        command.env("GIT_INDEX_FILE", &index);
        run(command, &staging)?;
        if !staging.is_empty() {
            let bytes = std::fs::read(&index).map_err(reading(index))?;
            self.entries = parse_whole(&bytes, self.repository.id_length(), "the temporary repository")?;
            self.index = Some(IndexFile { bytes, modified: Time::now() });
        }
        Ok(())
    }
}

/// Returns whether a file matches its index entry by size and time, as git compares them. `written` is the index's
/// time.
fn is_as_staged(entry: &IndexEntry, found: &FileStat, written: Time) -> bool {
    let kind = match found.file_type() {
        FileType::Symlink => 0o120_000,
        _ if found.mode & 0o100 != 0 => 0o100_755,
        _ => 0o100_644,
    };
    entry.stage == 0
        && !entry.intent_to_add
        && entry.mode == kind
        && i64::from(entry.modified) == found.modified.seconds
        && u64::from(entry.size) == found.size & u64::from(u32::MAX)
        // A file modified in the second in which the index was written may have changed after git read it.
        && found.modified.seconds < written.seconds
}

/// Returns arguments that make git apply the user's global excludes.
pub(crate) fn excludes_file(repository: &Repository) -> Vec<String> {
    let Some(path) = repository.config.get("core.excludesfile") else { return Vec::new() };
    vec!["-c".to_owned(), format!("core.excludesFile={}", String::from_utf8_lossy(path))]
}

fn branch(scratch: &Scratch, name: &str) -> Result<String, WorkspaceError> {
    let full = format!("refs/heads/{name}");
    match scratch.run(&["check-ref-format", &full], &[]) {
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
    scratch: &Scratch,
    commit: &str,
) -> Result<BTreeMap<Vec<u8>, (u32, String)>, WorkspaceError> {
    let entries = list_tree(scratch, &["ls-tree", "-r", "-z", "--full-tree", commit])?;
    Ok(entries.into_iter().map(|entry| (entry.path, (entry.mode, entry.id))).collect())
}

fn list_tree(scratch: &Scratch, arguments: &[&str]) -> Result<Vec<TreeEntry>, WorkspaceError> {
    let listed = scratch.run(arguments, &[])?;
    let lines = listed.split(|byte| *byte == 0).filter(|line| !line.is_empty());
    let entry = |line| {
        let (words, path) = words(line)?;
        let (mode, id, size) = match words.as_slice() {
            [mode, _, id] => (mode, id, 0),
            // A submodule has no size.
            [mode, _, id, size] => (mode, id, size.parse().unwrap_or(0)),
            _ => return Err(odd("ls-tree", "a malformed line").into()),
        };
        let mode = u32::from_str_radix(mode, 8).map_err(|error| odd("ls-tree", error.to_string()))?;
        Ok(TreeEntry { path, mode, id: (*id).to_owned(), size })
    };
    lines.map(entry).collect()
}

/// Splits a line into the words before the tab and the path after it.
fn words(line: &[u8]) -> Result<(Vec<&str>, Vec<u8>), GitError> {
    let tab =
        line.iter().position(|byte| *byte == b'\t').ok_or_else(|| odd("ls-tree", "a line without a path"))?;
    let head = std::str::from_utf8(line.get(..tab).unwrap_or_default());
    let head = head.map_err(|error| odd("ls-tree", error.to_string()))?;
    Ok((head.split_whitespace().collect(), line.get(tab + 1..).unwrap_or_default().to_vec()))
}
