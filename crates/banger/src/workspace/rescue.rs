//! Pulls work out of a VM: the files of the workspace, everything in its git repository, and other working trees of
//! that repository.

use banger_api::{ApiError, ErrorKind, Vm};
use banger_files::{FileRequest, Kind, ListedFile};
use banger_workspace::{
    Budget, Changes, GitState, Guest, GuestRefs, LeftOut, LockedRecords, Pulled, Record, Repository, Work,
    WorkspaceError, Worktree, Worktrees, fetch_refs, read_git_listing,
};

use super::{Exported, Workspaces, api_error_for, display_path, resend_hint, with_incomplete_hint};
use crate::error::CommandError;

/// Maximum number of refs and paths in a message.
const MAX_SHOWN: usize = 8;

/// A workspace in a VM whose listing and ignore files have been read.
pub(super) struct Opened {
    pub(super) repository: Repository,
    guest: Guest,
    /// The files to fetch next.
    request: FileRequest,
}

/// A repository in a VM: its directory, and the files in it that show work.
struct GitDir {
    path: Vec<u8>,
    state: GitState,
}

/// The work in a workspace, as it was read.
struct Read {
    repository: Repository,
    changes: Changes,
    refs: Option<GuestRefs>,
    worktrees: Worktrees,
    left_out: Vec<LeftOut>,
}

impl Workspaces<'_> {
    /// Fetches all changes to files in the workspace of `record`.
    async fn changes(&self, vm: &Vm, record: Record) -> Result<(Repository, Changes), CommandError> {
        let guest_path = record.guest_path().to_vec();
        let listed = self.list_files(vm, &guest_path).await;
        let listed = listed.map_err(|failure| with_incomplete_hint(failure, vm, &record))?;
        let Opened { repository, guest, request } = self.open(vm, record, listed).await?;
        Ok((repository, self.fetch_changes(vm, &guest_path, guest, request).await?))
    }

    /// Returns the changes in the workspace of `record` as a patch against the commit `base`, or against the sent
    /// commit.
    pub(crate) async fn export(
        &self,
        vm: &Vm,
        record: Record,
        base: Option<String>,
    ) -> Result<Exported, CommandError> {
        let (repository, changes) = self.changes(vm, record).await?;
        let exported = self.blocking(move || {
            let base = base.map(|base| repository.commit(&base)).transpose()?;
            let (patch, list) = (changes.patch(base.as_deref())?, changes.list(base.as_deref())?);
            Ok(Exported { patch, changes: list, left_out: changes.left_out })
        });
        Ok(exported.await?.map_err(api_error_for(vm))?)
    }

    /// Pulls the work in the workspace of `record` into the repository that it was sent from.
    pub(crate) async fn pull(&self, vm: &Vm, record: Record) -> Result<Pulled, CommandError> {
        let records = self.lock(vm).await?;
        // Something may have been sent meanwhile.
        let record = records.find(record.guest_path()).map_err(api_error_for(vm))?.unwrap_or(record);
        let listed = self.list_files(vm, record.guest_path()).await;
        let listed = listed.map_err(|failure| with_incomplete_hint(failure, vm, &record))?;
        let git_dir = self.git_dir(vm, &record, &listed).await?;
        let read = self.read_work(vm, record, listed, git_dir).await?;
        self.warn_left_out(read.left_out.iter(), "was not pulled");
        Ok(self.store(vm, &records, read, false).await?.unwrap_or_default())
    }

    /// Pulls all work that exists only in `vm`, before the VM is deleted. Returns the VM's records if it has any.
    pub(crate) async fn save_work(&self, vm: &Vm) -> Result<Option<LockedRecords>, CommandError> {
        if self.records_of(vm)?.is_empty() {
            return Ok(None);
        }
        let records = self.lock(vm).await?;
        for record in self.records_of(vm)? {
            let listed = match self.list_files(vm, record.guest_path()).await {
                Err(CommandError { error: Some(error), .. }) if error.kind == ErrorKind::NotFound => {
                    if record.is_first_transfer() {
                        continue;
                    }
                    return Err(missing(vm, &record).into());
                }
                listed => listed?,
            };
            let git_dir = self.git_dir(vm, &record, &listed).await?;
            if record.is_unchanged(&listed) && git_dir.state.is_as_sent(&record) {
                continue;
            }
            let root = record.root().to_owned();
            let guest_path = display_path(record.guest_path());
            let incomplete = record.is_sending().then(|| resend_hint(vm, &record));
            let read = self.read_work(vm, record, listed, git_dir).await;
            let read = read.map_err(|failure| failure.with_hint(incomplete))?;
            let (unreadable, others): (Vec<_>, Vec<_>) =
                read.left_out.clone().into_iter().partition(|file| file.is_work);
            self.warn_left_out(others.iter(), &format!("in {guest_path} is not saved"));
            if let Some(pulled) = self.store(vm, &records, read, true).await? {
                let refs = shown(pulled.refs.iter().map(|(name, _)| name.clone()).collect());
                let root = root.display();
                self.ui.warning(format_args!("saved {}'s work in {guest_path} to {refs} in {root}", vm.name));
            }
            if !unreadable.is_empty() {
                let files = unreadable.into_iter().map(|file| (file.path, file.reason)).collect();
                return Err(api_error_for(vm)(WorkspaceError::Unreadable(files)).into());
            }
        }
        Ok(Some(records))
    }

    /// Lists the repository of the workspace of `record`, whose files are `listed`.
    async fn git_dir(&self, vm: &Vm, record: &Record, listed: &[ListedFile]) -> Result<GitDir, CommandError> {
        let mut path = [record.guest_path(), b"/.git"].concat();
        // Instead of the directory, a file may name it.
        let git_file = listed.iter().filter(|file| file.path == b".git" && file.kind == Kind::File);
        let git_file = FileRequest::new(git_file.map(|file| (file.path.clone(), file.size)));
        if git_file.paths().next().is_some() {
            let content = self.fetch_files(vm, record.guest_path(), git_file).await?.into_values().next();
            let content = content.unwrap_or_default();
            let named = content.strip_prefix(b"gitdir: ").unwrap_or(&content).trim_ascii_end();
            path = match named.first() {
                Some(b'/') => named.to_vec(),
                _ => [record.guest_path(), b"/", named].concat(),
            };
        }
        let to_api_error = api_error_for(vm);
        let receive = |input| read_git_listing(input).map_err(to_api_error);
        match self.list(vm, &path, receive).await {
            // Without a repository, only files are work.
            Err(CommandError { error: Some(error), .. }) if error.kind == ErrorKind::NotFound => {
                Ok(GitDir { path, state: GitState::default() })
            }
            state => Ok(GitDir { path, state: state? }),
        }
    }

    /// Opens the workspace of `record`, whose files are `listed`.
    async fn open(&self, vm: &Vm, record: Record, listed: Vec<ListedFile>) -> Result<Opened, CommandError> {
        let guest_path = record.guest_path().to_vec();
        let (scratch, git) = (self.scratch.clone(), self.git());
        let guest = self.blocking(move || {
            let repository = Repository::find(&git()?, record.root())?;
            Ok((Guest::new(&repository, record, listed, &scratch, &Budget::default())?, repository))
        });
        let (guest, repository) = guest.await?.map_err(api_error_for(vm))?;
        let (guest, request) = self.fetch_rules(vm, &guest_path, guest).await?;
        Ok(Opened { repository, guest, request })
    }

    /// Fetches the ignore files of `guest`, which is at `path`, and returns the files to fetch next.
    async fn fetch_rules(
        &self,
        vm: &Vm,
        path: &[u8],
        mut guest: Guest,
    ) -> Result<(Guest, FileRequest), CommandError> {
        let rules = guest.rule_files().map_err(api_error_for(vm))?;
        let rules = self.fetch_files(vm, path, rules).await?;
        let request = move || {
            let request = guest.files_to_fetch(rules)?;
            Ok((guest, request))
        };
        Ok(self.blocking(request).await?.map_err(api_error_for(vm))?)
    }

    async fn fetch_changes(
        &self,
        vm: &Vm,
        path: &[u8],
        guest: Guest,
        request: FileRequest,
    ) -> Result<Changes, CommandError> {
        self.fetch(vm, path, request, move |files, request| guest.into_changes(files, request)).await
    }

    /// Reads the work in the workspace of `record`: commits first, because files are compared with them.
    async fn read_work(
        &self,
        vm: &Vm,
        record: Record,
        listed: Vec<ListedFile>,
        git_dir: GitDir,
    ) -> Result<Read, CommandError> {
        let guest_path = record.guest_path().to_vec();
        let is_as_sent = git_dir.state.is_as_sent(&record);
        let GitDir { path, mut state } = git_dir;
        let Opened { repository, guest, request } = self.open(vm, record, listed).await?;
        let (mut guest, mut refs) = (guest, None);
        if guest.needs_objects() || !is_as_sent {
            state.set_files(self.fetch_files(vm, &path, state.files()).await?);
            let (guest_git, git_dir) = (self.guest_git(vm)?, path.clone());
            let fetched = move || {
                let refs = fetch_refs(&guest, &state, &git_dir, &guest_git)?;
                Ok((guest, state, refs))
            };
            let fetched = self.blocking(fetched).await?.map_err(api_error_for(vm))?;
            refs = Some(fetched.2);
            (guest, state) = (fetched.0, fetched.1);
        }
        let changes = self.fetch_changes(vm, &guest_path, guest, request).await?;
        let mut left_out = changes.left_out.clone();
        left_out.extend(state.left_out(&repository));
        let mut read = Read { repository, changes, refs, worktrees: Worktrees::new(), left_out: Vec::new() };
        let trees = read.refs.as_ref().map(|refs| Worktree::all(refs, &state, &path)).unwrap_or_default();
        for tree in trees {
            // The main working tree lists another one in it as a separate repository.
            left_out.retain(|file| [&guest_path, &b"/"[..], &file.path].concat() != tree.path());
            self.read_worktree(vm, &path, &state, tree, &mut read, &mut left_out).await?;
        }
        Ok(Read { left_out, ..read })
    }

    async fn read_worktree(
        &self,
        vm: &Vm,
        git_dir: &[u8],
        state: &GitState,
        tree: Worktree,
        read: &mut Read,
        left_out: &mut Vec<LeftOut>,
    ) -> Result<(), CommandError> {
        let listed = match self.list_files(vm, tree.path()).await {
            Err(CommandError { error: Some(error), .. }) if error.kind == ErrorKind::NotFound => {
                return Ok(());
            }
            listed => listed?,
        };
        if !Worktree::is_in(&listed) {
            return Ok(());
        }
        let index = self.fetch_files(vm, git_dir, tree.index_file()).await?.into_values().next();
        let (name, path) = (tree.name().to_owned(), tree.path().to_vec());
        let guest = tree.into_guest(&read.repository, &read.changes, state, index, listed);
        let (guest, request) = self.fetch_rules(vm, &path, guest.map_err(api_error_for(vm))?).await?;
        let changes = self.fetch_changes(vm, &path, guest, request).await?;
        left_out.extend(changes.left_out.iter().map(|file| {
            let path = [&path, &b"/"[..], &file.path].concat();
            LeftOut { path, ..file.clone() }
        }));
        read.worktrees.push((name, changes));
        Ok(())
    }

    /// Warns that files are left out; `what` says of what.
    fn warn_left_out<'f>(&self, files: impl ExactSizeIterator<Item = &'f LeftOut>, what: &str) {
        let more = files.len().saturating_sub(MAX_SHOWN);
        for file in files.take(MAX_SHOWN) {
            self.ui.warning(format_args!("{} {what}: {}", display_path(&file.path), file.reason));
        }
        if more > 0 {
            self.ui.warning(format_args!("the same is true of {more} more paths"));
        }
    }

    /// Stores the work that was read in the user's repository. If `if_work` is set and there is none, returns `None`.
    async fn store(
        &self,
        vm: &Vm,
        records: &LockedRecords,
        read: Read,
        if_work: bool,
    ) -> Result<Option<Pulled>, CommandError> {
        let (name, guest) = (vm.name.to_string(), read.changes.guest_path().to_vec());
        let pulled = self.blocking(move || {
            let Read { repository, changes, refs, worktrees, .. } = read;
            let work = Work::collect(&repository, &name, &changes, refs.as_ref(), &worktrees)?;
            (!if_work || work.has_work()).then(|| work.store()).transpose()
        });
        let Some(pulled) = pulled.await?.map_err(api_error_for(vm))? else { return Ok(None) };
        records.set_pulled(&guest, &pulled).map_err(api_error_for(vm))?;
        if !pulled.replaced.is_empty() {
            let names = shown(pulled.replaced.iter().cloned().collect());
            self.ui
                .note(format_args!("kept work of an earlier VM {}, or replaced work, as {names}", vm.name));
        }
        for (name, used) in pulled.renamed.iter().take(MAX_SHOWN) {
            self.ui.note(format_args!("this repository cannot have a ref for {name}; it is {used}"));
        }
        Ok(Some(pulled))
    }
}

/// Returns the error for a workspace that is not where it was sent. It may have been moved, with its work.
fn missing(vm: &Vm, record: &Record) -> ApiError {
    let path = display_path(record.guest_path());
    let message = format!("the workspace at {path} was moved or deleted in VM {}", vm.name);
    ApiError::new(ErrorKind::NotFound, message)
        .hint(format!("move it back to {path}, or copy what you need with: banger vm cp {}:PATH .", vm.name))
}

/// Lists the first few names, and the number of the others.
fn shown(names: Vec<String>) -> String {
    let more = names.len().saturating_sub(MAX_SHOWN);
    let shown = names.into_iter().take(MAX_SHOWN).collect::<Vec<_>>().join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}
