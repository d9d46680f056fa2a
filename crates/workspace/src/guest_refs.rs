//! Asks a guest's git for everything that names work: refs, logs, stashes, staged changes, and the state of every
//! working tree. The answers are data from the guest: they are limited, and parsed strictly.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
};

use crate::{
    WorkspaceError,
    budget::Budget,
    git::{Git, GitError, run, unexpected_output},
    git_state::GitState,
    index::GITLINK,
    size::size_text,
};

/// How to run git in a guest: a program on the host with its arguments, to which `git …` is appended.
///
/// It sets the variable [`PROTOCOL`] for git.
#[derive(Debug, Clone)]
pub struct GuestGit(pub Vec<OsString>);

/// Variable that makes the guest's git use version 2 of git's protocol, which fetches without listing refs. The older
/// one fetches nothing if there are none.
pub const PROTOCOL: &str = "GIT_PROTOCOL=version=2";

/// A name in the guest, and the object that it names.
pub(crate) type Named = (Vec<u8>, String);

/// The names of a guest's work.
#[derive(Debug, Default)]
pub struct GuestRefs {
    /// Refs by their full names.
    pub(crate) refs: Vec<Named>,
    /// Commits of the stash, the latest first.
    pub(crate) stashes: Vec<String>,
    /// Commits in the logs of all refs.
    pub(crate) logged: BTreeSet<String>,
    /// The working trees, the main one first.
    pub(crate) worktrees: Vec<WorktreeRefs>,
}

/// The names of a working tree's own work.
#[derive(Debug, Default)]
pub(crate) struct WorktreeRefs {
    /// Its name; `None` for the main one.
    pub(crate) name: Option<String>,
    /// The checked-out commit.
    pub(crate) head: Option<String>,
    /// Refs that belong to this working tree, by their full names. Those of the main one are among all refs.
    pub(crate) refs: Vec<Named>,
    /// Pseudo-refs, such as `ORIG_HEAD` and `rebase-merge/autostash`.
    pub(crate) pseudo_refs: Vec<Named>,
    /// Other objects that the state of an operation names.
    pub(crate) named: BTreeSet<String>,
    /// Entries of the index that differ from the checked-out commit.
    pub(crate) staged: Vec<StagedEntry>,
}

/// An entry of the index that differs from the checked-out commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StagedEntry {
    /// git's mode; `0` if the file is not in the index.
    pub(crate) mode: u32,
    pub(crate) id: String,
    /// The stage: 0, or 1 to 3 for the sides of a conflict.
    pub(crate) stage: u8,
    pub(crate) path: Vec<u8>,
}

/// Refs that each working tree has for itself.
const WORKTREE_REFS: [&str; 3] = ["refs/bisect", "refs/rewritten", "refs/worktree"];

/// Pseudo-refs that git may keep where they are not files.
const PSEUDO_REFS: &[&str] =
    &["ORIG_HEAD", "MERGE_AUTOSTASH", "CHERRY_PICK_HEAD", "REVERT_HEAD", "REBASE_HEAD", "BISECT_HEAD"];

impl GuestRefs {
    /// Returns every object that holds work.
    pub(crate) fn ids(&self) -> BTreeSet<&str> {
        let mut ids: BTreeSet<_> = self.refs.iter().map(|(_, id)| id.as_str()).collect();
        ids.extend(self.stashes.iter().chain(&self.logged).map(String::as_str));
        for tree in &self.worktrees {
            ids.extend(tree.head.as_deref());
            ids.extend(tree.refs.iter().chain(&tree.pseudo_refs).map(|(_, id)| id.as_str()));
            ids.extend(tree.named.iter().map(String::as_str));
            // A submodule's commit is not an object of this repository.
            let blobs = tree.staged.iter().filter(|entry| !matches!(entry.mode, 0 | GITLINK));
            ids.extend(blobs.map(|entry| entry.id.as_str()));
        }
        ids
    }
}

/// A guest's repository, seen through its git.
pub(crate) struct GuestRepository<'a> {
    pub(crate) git: &'a Git,
    pub(crate) guest_git: &'a GuestGit,
    /// The workspace's directory in the guest.
    pub(crate) path: &'a [u8],
    /// The repository's git directory in the guest.
    pub(crate) git_dir: &'a [u8],
    /// Length of an object id, in bytes.
    pub(crate) id_length: usize,
    pub(crate) budget: &'a Budget,
}

impl GuestRepository<'_> {
    /// Asks for all names. `index_changed` says whether the main working tree may have staged changes.
    pub(crate) fn refs(&self, state: &GitState, index_changed: bool) -> Result<GuestRefs, WorkspaceError> {
        let format = "--format=%(objectname) %(refname)";
        let refs = self.named(&self.ask(None, &["for-each-ref", format], b"")?)?;
        let logged = ["rev-list", "--no-walk=unsorted", "--all", "--reflog"];
        let logged = self.ids(&self.ask(None, &logged, b"")?)?.into_iter().collect();
        let mut stashes = Vec::new();
        if let Some((_, latest)) = refs.iter().find(|(name, _)| name == b"refs/stash") {
            stashes =
                self.ids(&self.ask(None, &["rev-list", "--walk-reflogs", "refs/stash", "--"], b"")?)?;
            if stashes.first() != Some(latest) {
                stashes.insert(0, latest.clone());
            }
        }
        let names = state.worktrees();
        if names.len() > self.budget.worktrees {
            let limit = self.budget.worktrees.to_string();
            return Err(WorkspaceError::TooLarge { what: "working trees", limit });
        }
        let mut worktrees = vec![self.worktree(state, None, index_changed)?];
        for name in names {
            let name = std::str::from_utf8(name).ok().filter(|name| !name.contains('\n'));
            let name = name.ok_or_else(|| unexpected_output(GUEST, "a working tree has an invalid name"))?;
            worktrees.push(self.worktree(state, Some(name), true)?);
        }
        Ok(GuestRefs { refs, stashes, logged, worktrees })
    }

    fn worktree(
        &self,
        state: &GitState,
        name: Option<&str>,
        index_changed: bool,
    ) -> Result<WorktreeRefs, WorkspaceError> {
        let key = name.map(str::as_bytes);
        let refs = match name {
            Some(_) => {
                let arguments = [&["for-each-ref", "--format=%(objectname) %(refname)"], &WORKTREE_REFS[..]];
                self.named(&self.ask(name, &arguments.concat(), b"")?)?
            }
            None => Vec::new(),
        };
        // Names that may be missing, each with the name that a ref on the host gets.
        let mut queries: Vec<(String, Option<Vec<u8>>)> = vec![("HEAD".to_owned(), None)];
        let files = state.state(key, self.id_length);
        let is_file = |name: &str| files.iter().any(|file| file.name == name.as_bytes());
        let stored_elsewhere = PSEUDO_REFS.iter().filter(|name| !is_file(name));
        queries.extend(stored_elsewhere.map(|name| ((*name).to_owned(), Some(name.as_bytes().to_vec()))));
        for file in &files {
            let name = file.is_pseudo_ref.then(|| file.name.to_vec());
            queries.extend(file.ids.iter().map(|id| (id.clone(), name.clone())));
        }
        let found = self.existing(name, queries.iter().map(|(query, _)| query.as_str()))?;
        let mut tree = WorktreeRefs { name: name.map(str::to_owned), refs, ..WorktreeRefs::default() };
        for (at, ((_, label), id)) in queries.into_iter().zip(found).enumerate() {
            match (at, label, id) {
                (0, _, id) => tree.head = id,
                (_, Some(label), Some(id)) => tree.pseudo_refs.push((label, id)),
                (_, None, Some(id)) => _ = tree.named.insert(id),
                (_, _, None) => {}
            }
        }
        if index_changed && state.file(key, b"index").is_some() {
            tree.staged = self.staged(name, tree.head.as_deref())?;
        }
        Ok(tree)
    }

    /// Returns the entries of an index that differ from the commit `head`.
    fn staged(&self, worktree: Option<&str>, head: Option<&str>) -> Result<Vec<StagedEntry>, WorkspaceError> {
        // git knows the empty tree even where it was never stored.
        let empty = if self.id_length == 32 { EMPTY_TREE_SHA256 } else { EMPTY_TREE };
        let base = head.unwrap_or(empty);
        #[rustfmt::skip]
        let arguments = [
            "diff-index", "--cached", "--raw", "-z", "--no-abbrev", "--no-renames", "--ignore-submodules=none",
            "--ita-invisible-in-index", base, "--",
        ];
        let (mut entries, conflicts) = self.differences(&self.ask(worktree, &arguments, b"")?)?;
        if conflicts {
            entries.extend(self.unmerged(&self.ask(worktree, &["ls-files", "-u", "-z"], b"")?)?);
        }
        Ok(entries)
    }

    /// Parses `:MODE MODE ID ID STATUS`, each followed by a path. Also returns whether there are conflicts.
    fn differences(&self, output: &[u8]) -> Result<(Vec<StagedEntry>, bool), WorkspaceError> {
        let malformed = || unexpected_output(GUEST, "a malformed list of staged files");
        let mut fields = output.split(|byte| *byte == 0);
        let (mut entries, mut conflicts) = (Vec::new(), false);
        while let Some(head) = fields.next().filter(|head| !head.is_empty()) {
            let head = std::str::from_utf8(head).map_err(|_| malformed())?;
            let path = fields.next().ok_or_else(malformed)?.to_vec();
            let words: Vec<_> = head.trim_start_matches(':').split(' ').collect();
            let [_, mode, _, id, status] = words.as_slice() else { return Err(malformed().into()) };
            if *status == "U" {
                conflicts = true;
            } else {
                entries.push(self.entry(mode, id, "0", path).ok_or_else(malformed)?);
            }
        }
        Ok((entries, conflicts))
    }

    /// Parses `MODE ID STAGE`, a tab and a path.
    fn unmerged(&self, output: &[u8]) -> Result<Vec<StagedEntry>, WorkspaceError> {
        let malformed = || unexpected_output(GUEST, "a malformed list of conflicts");
        let lines = output.split(|byte| *byte == 0).filter(|line| !line.is_empty());
        let entry = |line: &[u8]| {
            let tab = line.iter().position(|byte| *byte == b'\t')?;
            let words: Vec<_> = std::str::from_utf8(line.get(..tab)?).ok()?.split(' ').collect();
            let [mode, id, stage] = words.as_slice() else { return None };
            self.entry(mode, id, stage, line.get(tab + 1..)?.to_vec())
        };
        lines.map(|line| entry(line).ok_or_else(|| malformed().into())).collect()
    }

    fn entry(&self, mode: &str, id: &str, stage: &str, path: Vec<u8>) -> Option<StagedEntry> {
        let mode = u32::from_str_radix(mode, 8).ok()?;
        let stage = stage.parse().ok().filter(|stage| *stage <= 3)?;
        let id = self.id(id)?;
        (!path.is_empty()).then_some(StagedEntry { mode, id, stage, path })
    }

    /// Returns the object of each name in `queries`, if the guest has it.
    fn existing<'q>(
        &self,
        worktree: Option<&str>,
        queries: impl Iterator<Item = &'q str>,
    ) -> Result<Vec<Option<String>>, WorkspaceError> {
        let queries: Vec<_> = queries.collect();
        let input: String = queries.iter().flat_map(|query| [query, "\n"]).collect();
        let output = self.ask(worktree, &["cat-file", "--batch-check=%(objectname)"], input.as_bytes())?;
        let lines: Vec<_> = lines(&output).map(|line| self.id(&String::from_utf8_lossy(line))).collect();
        if lines.len() != queries.len() {
            return Err(unexpected_output(GUEST, "not one answer for each object").into());
        }
        Ok(lines)
    }

    fn named(&self, output: &[u8]) -> Result<Vec<Named>, WorkspaceError> {
        let named = |line: &[u8]| {
            let space = line.iter().position(|byte| *byte == b' ')?;
            let id = self.id(std::str::from_utf8(line.get(..space)?).ok()?)?;
            let name = line.get(space + 1..)?;
            name.starts_with(b"refs/").then(|| (name.to_vec(), id))
        };
        let malformed = || unexpected_output(GUEST, "a malformed list of refs").into();
        lines(output).map(|line| named(line).ok_or_else(malformed)).collect()
    }

    fn ids(&self, output: &[u8]) -> Result<Vec<String>, WorkspaceError> {
        let malformed = || unexpected_output(GUEST, "a malformed list of commits").into();
        lines(output).map(|line| self.id(&String::from_utf8_lossy(line)).ok_or_else(malformed)).collect()
    }

    fn id(&self, text: &str) -> Option<String> {
        let is_id = text.len() == 2 * self.id_length && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_id.then(|| text.to_ascii_lowercase())
    }

    /// Runs git in the guest, for a working tree, and returns its output.
    fn ask(
        &self,
        worktree: Option<&str>,
        arguments: &[&str],
        input: &[u8],
    ) -> Result<Vec<u8>, WorkspaceError> {
        let location = match worktree {
            Some(name) => {
                let dir = [b"--git-dir=", self.git_dir, b"/worktrees/", name.as_bytes()].concat();
                vec![dir, b"--no-replace-objects".to_vec()]
            }
            None => vec![b"-C".to_vec(), self.path.to_vec(), b"--no-replace-objects".to_vec()],
        };
        self.run(&location, arguments, input).map_err(|error| {
            match (error, self.run(&[], &["version"], b"")) {
                (GitError::UnexpectedOutput { .. }, _) => {
                    let limit = format!("{} of text", size_text(self.budget.git_output as u64));
                    WorkspaceError::TooLarge { what: "lists of refs and commits", limit }
                }
                (_, Err(GitError::Failed { stderr, .. })) => WorkspaceError::NoGuestGit(stderr),
                (GitError::Failed { stderr, .. }, Ok(_)) => {
                    let command = arguments.first().copied().unwrap_or_default().to_owned();
                    WorkspaceError::GuestGit { command, stderr }
                }
                (error, _) => error.into(),
            }
        })
    }

    fn run(&self, location: &[Vec<u8>], arguments: &[&str], input: &[u8]) -> Result<Vec<u8>, GitError> {
        let words = self.guest_git.0.iter().map(OsString::as_os_str).chain([OsStr::new("git")]);
        let words = words.chain(location.iter().map(|word| OsStr::from_bytes(word)));
        let words = words.chain(arguments.iter().map(OsStr::new));
        let what = format!("{} {GUEST}", arguments.first().copied().unwrap_or_default());
        let command = self.git.command_through(words, &what).with_banger_variables();
        run(command.within(self.budget.git_output, None), input)
    }
}

/// Names the guest's git in errors.
const GUEST: &str = "in the VM";

const EMPTY_TREE: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";
const EMPTY_TREE_SHA256: &str = "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321";

fn lines(output: &[u8]) -> impl Iterator<Item = &[u8]> {
    output.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}
