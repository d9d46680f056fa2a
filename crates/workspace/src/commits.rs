//! Pulls a guest's work into the host's repository, under separate refs. The user's branches, index and files are never
//! changed.

use std::{
    collections::{BTreeSet, HashSet},
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{
    Changes, GuestRefs, Repository, TempRepository, WorkspaceError,
    existing::{existing, existing_in, lines},
    git::{GitError, run},
    guest_refs::{Named, StagedEntry, WorktreeRefs},
    record::Pulled,
    ref_names::{RefNames, by_id},
    repository::object_id,
    snapshot::tree_entries,
    steps::Step,
    store::{Refs, refs, store_objects, update_refs},
};

/// Directories of the guest's refs whose names are kept. All others are below `refs`.
const KINDS: [&[u8]; 4] = [b"heads/", b"tags/", b"notes/", b"remotes/"];

/// Refs of commits that banger makes from a working tree's files and index. Later work replaces them.
const SNAPSHOTS: [&str; 4] = ["uncommitted", "index", "index-base", "index-theirs"];

const REPLACED: &str = "replaced/";
const REFLOG: &str = "reflog/";

/// The work of a guest, ready to be stored.
#[derive(Debug)]
pub struct Work<'a> {
    repository: &'a Repository,
    temp_repo: &'a TempRepository,
    pulled: Pulled,
    /// Refs that keep replaced work, that are deleted, and that are set.
    kept: Refs,
    removed: Refs,
    changed: Refs,
    has_work: bool,
}

/// The working trees of a guest that share its repository: names and changes.
pub type Worktrees = Vec<(String, Changes)>;

impl<'a> Work<'a> {
    /// Collects the guest's work: `changes` in its files, the fetched `guest_refs`, and `worktrees`. Work of the VM
    /// `vm` gets refs below `refs/banger/VM/`.
    ///
    /// # Errors
    /// Returns an error if objects are missing, if there are too many refs, or if git fails.
    pub fn collect(
        repository: &'a Repository,
        vm: &'a str,
        changes: &'a Changes,
        guest_refs: Option<&GuestRefs>,
        worktrees: &Worktrees,
    ) -> Result<Self, WorkspaceError> {
        let collector = Collector::new(repository, vm, changes, worktrees)?;
        collector.work(guest_refs.unwrap_or(&GuestRefs::default()), worktrees)
    }

    /// Returns whether there is anything that the host does not have.
    pub fn has_work(&self) -> bool {
        self.has_work
    }

    /// Stores the objects and refs in the user's repository.
    ///
    /// # Errors
    /// Returns an error if the repository cannot be written, or has too little space.
    pub fn store(self) -> Result<Pulled, WorkspaceError> {
        let (from, to) = (self.temp_repo.objects(), self.repository.common_dir.join("objects"));
        Step::PullObjects.around(|| store_objects(&from, &to, self.temp_repo.budget()))?;
        Step::PullRefs.around(|| update_refs(self.repository, &self.kept, &self.removed, &self.changed))?;
        Ok(self.pulled)
    }
}

struct Collector<'a> {
    repository: &'a Repository,
    vm: &'a str,
    changes: &'a Changes,
    temp_repo: &'a TempRepository,
    names: RefNames,
    /// All refs of the host's repository that do not belong to this VM.
    host_refs: Refs,
    /// Refs of this VM's name.
    old_refs: Refs,
    /// Commits that were sent, if the host still has them.
    sent: BTreeSet<String>,
}

impl<'a> Collector<'a> {
    fn new(
        repository: &'a Repository,
        vm: &'a str,
        changes: &'a Changes,
        worktrees: &Worktrees,
    ) -> Result<Self, WorkspaceError> {
        repository.check_writable_parts()?;
        let temp_repo = changes.temp_repo();
        let sent = existing_in(repository, changes.sent_commits())?;
        for (_, changes) in worktrees {
            store_objects(&changes.temp_repo().objects(), &temp_repo.objects(), temp_repo.budget())?;
        }
        // The history that the host will have: what is missing there must not be missing here.
        let shallow = repository.shallow()?;
        temp_repo.write("shallow", lines(shallow.iter().map(String::as_str)).as_bytes())?;
        let ignore_case = repository.config.get("core.ignorecase") == Some(b"true");
        let names = RefNames::new(vm, ignore_case);
        let (old_refs, host_refs) =
            refs(repository)?.into_iter().partition(|(name, _)| name.starts_with(names.prefix()));
        Ok(Self { repository, vm, changes, temp_repo, names, host_refs, old_refs, sent })
    }

    fn work(mut self, guest: &GuestRefs, worktrees: &Worktrees) -> Result<Work<'a>, WorkspaceError> {
        let main = guest.worktrees.first();
        let head = main.and_then(|tree| tree.head.clone());
        let head = head.or_else(|| self.changes.sent().map(str::to_owned));
        if let Some(head) = &head {
            self.names.add(b"HEAD", head);
        }
        let snapshots = self.snapshots("", Some(self.changes), head.as_deref(), main)?;
        for (name, id) in snapshots {
            self.names.add(name.as_bytes(), &id);
        }
        let mut others = Vec::new();
        for (name, id) in &guest.refs {
            self.add_ref(name, id, &mut others);
        }
        for (number, id) in guest.stashes.iter().enumerate().filter(|(_, id)| !self.sent.contains(*id)) {
            self.names.add(format!("stash/{number}").as_bytes(), id);
        }
        for tree in &guest.worktrees {
            self.add_worktree(tree, worktrees, &mut others)?;
        }
        others.extend(guest.logged.iter().map(|id| (Vec::new(), id.clone())));
        self.add_unnamed(others)?;
        // Uncommitted work that was sent is still in the host's files.
        let uncommitted = format!("{}{}", self.names.prefix(), SNAPSHOTS[0]);
        let is_new = |(name, id): (&String, &String)| match name {
            name if name.ends_with("/HEAD") => {
                !self.sent.contains(id) && !self.host_refs.values().any(|known| known == id)
            }
            name => *name != uncommitted || !self.changes.files_are_as_sent(),
        };
        let has_work = self.names.refs().iter().any(is_new);
        self.check()?;
        self.finish(has_work)
    }

    /// Adds a ref of the guest, or adds it to `others` if it only matters as long as nothing else contains its commit.
    fn add_ref(&mut self, name: &[u8], id: &str, others: &mut Vec<Named>) {
        let short = name.strip_prefix(b"refs/").unwrap_or(name);
        let host = std::str::from_utf8(name).ok().and_then(|name| self.host_refs.get(name));
        let is_on_host = host.is_some_and(|host| host == id);
        let kind = KINDS.into_iter().find(|kind| short.starts_with(kind));
        match kind {
            Some(b"heads/") if self.sent.contains(id) => {}
            Some(b"heads/") => self.names.add(short, id),
            _ if is_on_host || name == b"refs/stash" => {}
            Some(b"remotes/") => others.push((short.to_vec(), id.to_owned())),
            Some(_) => self.names.add(short, id),
            None => others.push(([b"refs/", short].concat(), id.to_owned())),
        }
    }

    /// Adds the work of a working tree, except the main one's files and commit.
    fn add_worktree(
        &mut self,
        tree: &WorktreeRefs,
        worktrees: &Worktrees,
        others: &mut Vec<Named>,
    ) -> Result<(), WorkspaceError> {
        let dir = tree.name.as_ref().map(|name| format!("worktrees/{name}/")).unwrap_or_default();
        if let Some(name) = &tree.name {
            let changes = worktrees.iter().find(|(other, _)| other == name).map(|(_, changes)| changes);
            let head = tree.head.as_deref();
            let snapshots = self.snapshots(&dir, changes, head, Some(tree))?;
            let full_name = format!("{dir}HEAD").into_bytes();
            match head {
                Some(head) if !snapshots.is_empty() => self.names.add(&full_name, head),
                Some(head) => others.push((full_name, head.to_owned())),
                None => {}
            }
            for (name, id) in snapshots {
                self.names.add(name.as_bytes(), &id);
            }
        }
        let own = tree.refs.iter().map(|(name, id)| ([dir.as_bytes(), name].concat(), id.clone()));
        let pseudo = tree.pseudo_refs.iter();
        let pseudo = pseudo.map(|(name, id)| ([dir.as_bytes(), b"state/", name].concat(), id.clone()));
        others.extend(own.chain(pseudo));
        others.extend(tree.named.iter().map(|id| (Vec::new(), id.clone())));
        Ok(())
    }

    /// Adds those of `others` that nothing else contains. Without a name, they are named by their ids.
    fn add_unnamed(&mut self, others: Vec<Named>) -> Result<(), WorkspaceError> {
        let ids: BTreeSet<_> = others.iter().map(|(_, id)| id.clone()).collect();
        let known = self.host_refs.values().chain(self.names.refs().values()).chain(&self.sent);
        let missing = self.without(&ids, known.map(String::as_str))?;
        let mut named: BTreeSet<&str> = BTreeSet::new();
        for (name, id) in others.iter().filter(|(_, id)| missing.contains(id)) {
            if name.is_empty() && named.contains(id.as_str()) {
                continue;
            }
            named.insert(id);
            let prefix = self.names.prefix();
            let taken = |name: &str| {
                self.names.refs().get(&format!("{prefix}{name}")).is_some_and(|other| other != id)
            };
            let name = if name.is_empty() { by_id(REFLOG, id, taken).into_bytes() } else { name.clone() };
            self.names.add(&name, id);
        }
        Ok(())
    }

    /// Returns those of `ids` that the history of `known` does not contain. Of commits that contain each other, returns
    /// the latest. Objects that are no commits must be known themselves.
    fn without<'i>(
        &self,
        ids: &BTreeSet<String>,
        known: impl Iterator<Item = &'i str>,
    ) -> Result<BTreeSet<String>, WorkspaceError> {
        let known: BTreeSet<_> = known.collect();
        let new: BTreeSet<_> = ids.iter().filter(|id| !known.contains(id.as_str())).cloned().collect();
        let (commits, mut missing): (BTreeSet<_>, BTreeSet<_>) = self.with_kinds(&new)?;
        if commits.is_empty() {
            return Ok(missing);
        }
        let input = lines(commits.iter().map(String::as_str)) + &excluding(known.into_iter());
        let arguments = ["rev-list", "--parents", "--ignore-missing", "--stdin"];
        let history = self.temp_repo.limited_run(&arguments, input.as_bytes(), "new commits", MAX_HISTORY)?;
        let history = String::from_utf8_lossy(&history);
        let contained: HashSet<&str> = history.lines().flat_map(|line| line.split(' ').skip(1)).collect();
        let all = history.lines().filter_map(|line| line.split(' ').next());
        missing.extend(all.filter(|id| !contained.contains(id)).map(str::to_owned));
        Ok(missing)
    }

    /// Separates `ids` into commits and other objects.
    fn with_kinds(
        &self,
        ids: &BTreeSet<String>,
    ) -> Result<(BTreeSet<String>, BTreeSet<String>), WorkspaceError> {
        let input = lines(ids.iter().map(String::as_str));
        let arguments = ["cat-file", "--batch-check=%(objectname) %(objecttype)"];
        let listed = self.temp_repo.run(&arguments, input.as_bytes())?;
        let listed = String::from_utf8_lossy(&listed);
        let kinds = listed.lines().filter_map(|line| line.split_once(' '));
        let (commits, others): (Vec<_>, Vec<_>) =
            kinds.filter(|(_, kind)| *kind != "missing").partition(|(_, kind)| *kind == "commit");
        let ids = |pairs: Vec<(&str, &str)>| pairs.into_iter().map(|(id, _)| id.to_owned()).collect();
        Ok((ids(commits), ids(others)))
    }

    /// Checks that the host will have everything that the new refs need.
    fn check(&self) -> Result<(), WorkspaceError> {
        if self.names.refs().len() > self.temp_repo.budget().refs {
            let limit = self.temp_repo.budget().refs.to_string();
            return Err(WorkspaceError::TooLarge { what: "branches, tags and logged commits", limit });
        }
        let known = existing(self.temp_repo, self.host_refs.values())?;
        let new = lines(self.names.refs().values().map(String::as_str));
        let input = new + &excluding(known.iter().map(String::as_str));
        let arguments = ["rev-list", "--objects", "--quiet", "--stdin"];
        let checked = run(self.temp_repo.limited_command(arguments, MAX_HISTORY), input.as_bytes());
        checked.map(drop).map_err(WorkspaceError::Incomplete)
    }

    /// Decides what happens to the refs of earlier pulls.
    fn finish(self, has_work: bool) -> Result<Work<'a>, WorkspaceError> {
        let prefix = self.names.prefix();
        let dir = format!("{prefix}{REPLACED}");
        let new = self.names.refs();
        let (already_replaced, old): (Refs, Refs) =
            self.old_refs.clone().into_iter().partition(|(name, _)| name.starts_with(&dir));
        let mut replaced_ids = BTreeSet::new();
        for (name, id) in old.iter().filter(|(name, id)| new.get(*name) != Some(*id)) {
            // A ref that stays has the old commit in its reflog. A snapshot that has vanished was committed or undone.
            let short_name = name.strip_prefix(prefix).unwrap_or_default();
            let is_numbered = short_name.starts_with("stash/");
            let stays = new.contains_key(name) && !is_numbered || is_snapshot(short_name);
            if !(stays && self.changes.pulled().get(name) == Some(id)) {
                replaced_ids.insert(id.clone());
            }
        }
        let known = self.host_refs.values().chain(new.values()).chain(already_replaced.values());
        let mut kept = Refs::new();
        for id in self.without(&replaced_ids, known.map(String::as_str))? {
            let taken = |name: &str| {
                let other = already_replaced.get(name).or_else(|| kept.get(name));
                other.is_some_and(|other| *other != id)
            };
            kept.insert(by_id(&dir, &id, taken), id);
        }
        let is_removed = |(name, _): &(String, String)| !new.contains_key(name);
        let removed = old.into_iter().filter(is_removed).collect();
        let pulled = Pulled {
            uncommitted: new.contains_key(&format!("{prefix}{}", SNAPSHOTS[0])),
            refs: new.iter().map(|(name, id)| (name.clone(), id.clone())).collect(),
            replaced: kept.keys().cloned().collect(),
            renamed: self.names.renamed.clone(),
        };
        let is_changed = |(name, id): &(&String, &String)| self.old_refs.get(*name) != Some(*id);
        let changed = new.iter().filter(is_changed).map(|(name, id)| (name.clone(), id.clone())).collect();
        let Self { repository, temp_repo, .. } = self;
        Ok(Work { repository, temp_repo, pulled, kept, removed, changed, has_work })
    }

    /// Commits a working tree's files and index on top of `head`, if they differ. `dir` is where their refs are.
    ///
    /// Returns names and commits.
    fn snapshots(
        &self,
        dir: &str,
        changes: Option<&Changes>,
        head: Option<&str>,
        tree: Option<&WorktreeRefs>,
    ) -> Result<Vec<(String, String)>, WorkspaceError> {
        let files = changes.map(|changes| self.tree(changes.work())).transpose()?;
        let mut snapshots = Vec::new();
        if let (Some(changes), Some(files)) = (changes, &files) {
            let before = head.map_or_else(|| Ok(changes.base().to_owned()), |head| self.tree(head))?;
            if *files != before {
                snapshots.push(self.snapshot(
                    format!("{dir}{}", SNAPSHOTS[0]),
                    files,
                    head,
                    "Uncommitted work",
                )?);
            }
        }
        let entries = tree.map(|tree| tree.staged.as_slice()).unwrap_or_default();
        let sides = [(head, &[0, 2][..]), (None, &[1]), (None, &[3])];
        for (name, (base, stages)) in SNAPSHOTS.iter().skip(1).zip(sides) {
            let entries: Vec<_> = entries.iter().filter(|entry| stages.contains(&entry.stage)).collect();
            if entries.is_empty() {
                continue;
            }
            let staged = self.staged_tree(base, &entries)?;
            if files.as_ref() != Some(&staged) {
                snapshots.push(self.snapshot(format!("{dir}{name}"), &staged, head, "Staged changes")?);
            }
        }
        Ok(snapshots)
    }

    /// Returns the tree of the commit `base` with `entries`.
    fn staged_tree(&self, base: Option<&str>, entries: &[&StagedEntry]) -> Result<String, WorkspaceError> {
        let index = self.temp_repo.path().join("staged");
        let git = |arguments: &[&str], input: &[u8]| {
            let mut command = self.temp_repo.limited_command(arguments, MAX_HISTORY);
            command.env("GIT_INDEX_FILE", &index);
            run(command, input)
        };
        if let Some(base) = base {
            // Limits the index that git creates from it.
            tree_entries(self.temp_repo, base)?;
        }
        git(&["read-tree", base.unwrap_or("--empty")], b"")?;
        let mut input = Vec::new();
        for entry in entries {
            input.extend_from_slice(format!("{:o} {} 0\t", entry.mode, entry.id).as_bytes());
            input.extend_from_slice(&entry.path);
            input.push(0);
        }
        git(&["update-index", "-z", "--index-info"], &input)?;
        Ok(object_id(&git(&["write-tree"], b"")?)?)
    }

    fn tree(&self, commit: &str) -> Result<String, GitError> {
        object_id(&self.temp_repo.run(&["rev-parse", "--verify", &format!("{commit}^{{tree}}")], &[])?)
    }

    /// Commits `tree` for the ref `name`, unless that has this commit already. Returns the name and the commit.
    fn snapshot(
        &self,
        name: String,
        tree: &str,
        parent: Option<&str>,
        what: &str,
    ) -> Result<(String, String), WorkspaceError> {
        if let Some(old) = self.old_refs.get(&format!("{}{name}", self.names.prefix())) {
            let commit = self.temp_repo.run(&["cat-file", "-p", old], &[]).unwrap_or_default();
            let parent = parent.map(|id| format!("parent {id}\n")).unwrap_or_default();
            if commit.starts_with(format!("tree {tree}\n{parent}author banger ").as_bytes()) {
                return Ok((name, old.clone()));
            }
        }
        let worktree = name.strip_prefix("worktrees/").and_then(|name| name.split('/').next());
        let worktree = worktree.map(|name| format!(", working tree {name}")).unwrap_or_default();
        let message = format!("{what} in VM {}{worktree}", self.vm);
        let mut arguments = vec!["commit-tree", tree, "-m", &message];
        arguments.extend(parent.into_iter().flat_map(|parent| ["-p", parent]));
        let mut command = self.temp_repo.command(arguments);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        for role in ["AUTHOR", "COMMITTER"] {
            command
                .env(format!("GIT_{role}_NAME"), "banger")
                .env(format!("GIT_{role}_EMAIL"), "banger@localhost")
                .env(format!("GIT_{role}_DATE"), format!("@{now} +0000"));
        }
        Ok((name, object_id(&run(command, &[])?)?))
    }
}

/// Returns whether the ref `name`, without the prefix, is a snapshot of a working tree.
fn is_snapshot(name: &str) -> bool {
    let within = name.strip_prefix("worktrees/").and_then(|rest| rest.split_once('/'));
    SNAPSHOTS.contains(&within.map_or(name, |(_, rest)| rest))
}

/// Returns commits as input for git that excludes their history.
fn excluding<'i>(ids: impl Iterator<Item = &'i str>) -> String {
    ids.flat_map(|id| ["^", id, "\n"]).collect()
}

/// Maximum size of a history that git lists, in bytes: some million commits.
const MAX_HISTORY: usize = 256 << 20;
