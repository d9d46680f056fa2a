//! Workspaces: a user's repository in a VM, its record on the host, and the changes made in the guest.

mod error;
mod records;
mod rescue;
pub(crate) mod tools;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    env,
    ffi::OsString,
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use banger_api::{ApiError, ErrorKind, Vm};
use banger_client::{Client, FromGuest, ToGuest, exchange};
use banger_files::{FileRequest, ListedFile, Time, pack};
use banger_proto::{Workspace, WorkspaceAction};
use banger_workspace::{
    Cancel, Change, ConfinementReport, Git, GitError, GuestGit, LeftOut, LockedRecords, Options, PROTOCOL,
    Record, Records, Repository, Snapshot, Upload, UploadResult, WorkspaceError, read_files, read_listing,
};
use records::Transaction;
use tokio::{task::spawn_blocking, time::timeout};

use crate::{
    error::CommandError,
    signals,
    transfer::{Transfer, open_source},
    ui::Ui,
};

/// Size of transfer buffers, in bytes.
const BUFFER_SIZE: usize = 64 << 10;

/// Time that git's processes and their files have to end after a signal.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// All of the user's workspaces.
#[derive(Debug)]
pub(crate) struct Workspaces<'a> {
    client: &'a Client,
    ui: &'a Ui,
    records: Records,
    cache: PathBuf,
    /// Directory for data from guests, which may be large: not the cache, which may be in memory.
    scratch: PathBuf,
    /// Cancels the git commands of the current phase.
    cancel: RefCell<Cancel>,
}

/// Result of sending a workspace to a VM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SendSummary {
    /// Number of files written.
    pub(crate) files: usize,
    /// Number of files removed.
    pub(crate) removed: usize,
    /// Number of files left out because they are neither tracked nor ignored.
    pub(crate) left_out: usize,
    /// Nested repositories, which were left out.
    pub(crate) repositories: Vec<Vec<u8>>,
    /// Whether credentials in the URL of `origin` were left out.
    pub(crate) origin_credentials: bool,
}

/// A function that takes a snapshot of a repository; runs on a thread that may block.
pub(crate) trait TakeSnapshot: FnOnce() -> Result<Snapshot, WorkspaceError> + Send + 'static {}

impl<T: FnOnce() -> Result<Snapshot, WorkspaceError> + Send + 'static> TakeSnapshot for T {}

impl SendSummary {
    fn with_left_out(self, snapshot: &Snapshot) -> Self {
        let repositories = snapshot.repositories().to_vec();
        Self { left_out: snapshot.left_out(), repositories, ..self }
    }
}

impl<'a> Workspaces<'a> {
    pub(crate) fn new(client: &'a Client, ui: &'a Ui) -> Result<Self, ApiError> {
        let dirs = client.dirs();
        let records = Records::new(dirs.state.join("workspaces"));
        let (cache, scratch) = (dirs.cache.join("workspace"), dirs.state.join("rescue"));
        let cancel = RefCell::new(Cancel::new().map_err(io_error)?);
        Ok(Self { client, ui, records, cache, scratch, cancel })
    }

    /// Returns the records of the workspaces of `vm`.
    pub(crate) fn records_of(&self, vm: &Vm) -> Result<Vec<Record>, ApiError> {
        self.records.list(vm.id.as_str()).map_err(api_error_for(vm))
    }

    /// Returns the workspace of `vm` at `guest`, or its only workspace.
    pub(crate) fn find(&self, vm: &Vm, guest: Option<&str>) -> Result<Record, ApiError> {
        let mut records = self.records_of(vm)?;
        if let Some(guest) = guest {
            records.retain(|record| record.guest_path() == guest.as_bytes());
        }
        match (records.len(), records.pop()) {
            (1, Some(record)) => Ok(record),
            (0, _) => {
                let location = guest.map(|guest| format!(" at {guest}")).unwrap_or_default();
                let message =
                    format!("VM {} has no workspace{location} that was sent from this host", vm.name);
                Err(ApiError::new(ErrorKind::NotFound, message)
                    .hint(format!("send one with: banger vm workspace prepare {} PATH", vm.name)))
            }
            (_, last) => {
                let mut names: Vec<_> =
                    records.iter().chain(&last).map(|record| display_path(record.guest_path())).collect();
                names.sort();
                let message = format!("VM {} has several workspaces: {}", vm.name, names.join(", "));
                Err(ApiError::new(ErrorKind::Ambiguous, message).hint("select one with --guest-path"))
            }
        }
    }

    /// Locks the records of `vm`. Only their holder changes the VM's workspaces.
    async fn lock(&self, vm: &Vm) -> Result<LockedRecords, CommandError> {
        records::lock(&self.records, vm, self.ui).await
    }

    /// Records that `vm` is being deleted. `records` are those that [`save_work`](Self::save_work) has returned, if it
    /// was called.
    pub(crate) async fn mark_deleted(
        &self,
        vm: &Vm,
        records: Option<LockedRecords>,
    ) -> Result<Option<LockedRecords>, CommandError> {
        let records = match records {
            None if self.records.exist(vm.id.as_str()) => Some(self.lock(vm).await?),
            records => records,
        };
        if let Some(records) = &records {
            records.mark_deleted().map_err(api_error_for(vm))?;
        }
        Ok(records)
    }

    /// Deletes the records of a deleted VM.
    pub(crate) fn delete_records(&self, vm: &Vm, records: Option<LockedRecords>) {
        if let Some(Err(error)) = records.map(LockedRecords::remove) {
            self.ui.warning(format_args!("cannot delete the workspace records of VM {}: {error}", vm.name));
        }
    }

    /// Deletes the records of VMs whose deletion was interrupted.
    pub(crate) async fn delete_old_records(&self) {
        if let Ok(vms) = self.client.vms().await {
            // They do no harm if they stay.
            let _ = self.records.remove_deleted(|id| vms.iter().any(|vm| vm.id.as_str() == id));
        }
    }

    /// Returns a function that takes a snapshot of the repository containing `path` when called.
    pub(crate) fn deferred_snapshot(&self, path: &Path, options: Options) -> impl TakeSnapshot + use<> {
        let (path, cache, git) = (path.to_owned(), self.cache.clone(), self.git());
        move || {
            let repository = Repository::find(&git()?, &path)?;
            Snapshot::take(repository, &options, &cache)
        }
    }

    /// Takes a snapshot of the repository containing `path`.
    pub(crate) async fn snapshot(&self, path: &Path, options: Options) -> Result<Snapshot, CommandError> {
        let snapshot = self.blocking(self.deferred_snapshot(path, options)).await?;
        Ok(snapshot.map_err(|error| error::to_api_error(error, None))?)
    }

    /// Sends the snapshot that `take_snapshot` takes to `guest` in `vm`: all of it, or the changes since the last time.
    /// The guest prepares at the same time.
    pub(crate) async fn send_snapshot(
        &self,
        vm: &Vm,
        guest: &str,
        take_snapshot: impl TakeSnapshot,
    ) -> Result<SendSummary, CommandError> {
        let records = self.lock(vm).await?;
        let record = records.find(guest.as_bytes()).map_err(api_error_for(vm))?;
        let Some(record) = record else { return self.send_new(vm, guest, records, take_snapshot).await };
        let (listed, snapshot) =
            tokio::join!(self.list_files(vm, guest.as_bytes()), self.blocking(take_snapshot));
        let snapshot = snapshot?.map_err(api_error_for(vm))?;
        let listed = match listed {
            // A deleted directory, or an interrupted transfer: it is sent again in full.
            Err(CommandError { error: Some(error), .. }) if error.kind == ErrorKind::NotFound => {
                return self.send_new(vm, guest, records, move || Ok(snapshot)).await;
            }
            listed => listed?,
        };
        let changed = Upload::changed_git_files(&snapshot, &record, &listed);
        let git_files = if changed.paths().next().is_some() {
            self.fetch_files(vm, guest.as_bytes(), changed).await?
        } else {
            BTreeMap::new()
        };
        let summary = SendSummary::default().with_left_out(&snapshot);
        let changes = self.blocking(move || Upload::changes(snapshot, record, &listed, &git_files)).await?;
        match changes.map_err(api_error_for(vm))? {
            Some(upload) => {
                let upload = move || Ok((upload, summary));
                self.send_and_record(vm, guest.as_bytes(), WorkspaceAction::Change, records, upload).await
            }
            None => Ok(summary),
        }
    }

    /// Sends the whole snapshot that `take_snapshot` takes to `guest` in `vm`, which must not exist.
    async fn send_new(
        &self,
        vm: &Vm,
        guest: &str,
        records: LockedRecords,
        take_snapshot: impl TakeSnapshot,
    ) -> Result<SendSummary, CommandError> {
        let guest_path = guest.as_bytes().to_vec();
        let upload = move || {
            let snapshot = take_snapshot()?;
            let origin_credentials = snapshot.repository().has_origin_credentials();
            let summary =
                SendSummary { origin_credentials, ..SendSummary::default().with_left_out(&snapshot) };
            Ok((Upload::full(snapshot, &guest_path), summary))
        };
        let result =
            self.send_and_record(vm, guest.as_bytes(), WorkspaceAction::Place, records, upload).await;
        result.map_err(|failure| with_occupied_hint(failure, vm, guest))
    }

    /// Sends the commits of `snapshot` to the workspace of `record`; returns false if it has them all.
    pub(crate) async fn push(
        &self,
        vm: &Vm,
        record: Record,
        snapshot: Snapshot,
    ) -> Result<bool, CommandError> {
        let guest = record.guest_path().to_vec();
        let records = self.lock(vm).await?;
        // Something may have been sent meanwhile.
        let record = records.find(&guest).map_err(api_error_for(vm))?.unwrap_or(record);
        match Upload::commits(snapshot, record.clone()).map_err(api_error_for(vm))? {
            Some(upload) => {
                let upload = move || Ok((upload, SendSummary::default()));
                let sent = self.send_and_record(vm, &guest, WorkspaceAction::Change, records, upload).await;
                sent.map_err(|failure| with_incomplete_hint(failure, vm, &record))?;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Sends the upload that `upload` prepares. The record says so before the first byte and after the last one.
    async fn send_and_record(
        &self,
        vm: &Vm,
        guest: &[u8],
        action: WorkspaceAction,
        records: LockedRecords,
        upload: impl FnOnce() -> Result<(Upload, SendSummary), WorkspaceError> + Send + 'static,
    ) -> Result<SendSummary, CommandError> {
        let to_api_error = api_error_for(vm);
        let transaction = Transaction::new(records, guest, action).map_err(api_error_for(vm))?;
        let shared = transaction.clone();
        let write = move |out| -> Result<(UploadResult, SendSummary), WorkspaceError> {
            let (upload, summary) = upload()?;
            shared.begin(upload.record_before()?)?;
            Ok((upload.write(BufWriter::with_capacity(BUFFER_SIZE, out))?, summary))
        };
        let send = move |out| write(out).map_err(to_api_error);
        let sent = self.exchange(vm, guest, action, send, read_time).await;
        let ((sent, summary), placed_at) = transaction.undo_if_refused(sent).map_err(api_error_for(vm))??;
        let summary = SendSummary { files: sent.files, removed: sent.removed, ..summary };
        transaction.complete(&sent.into_record(placed_at)).map_err(api_error_for(vm))?;
        Ok(summary)
    }

    /// Copies the directory `path` with all its contents to `guest` in `vm`.
    pub(crate) async fn copy(&self, vm: &Vm, guest: &str, path: &Path) -> Result<(), CommandError> {
        let source = open_source(&path.join("."), false)?;
        let (path, guest_path, git) = (path.to_owned(), guest.as_bytes().to_vec(), self.git());
        // Without a repository, only `vm cp` can copy the directory out again.
        let repository = self.blocking(move || {
            let repository = Repository::find(&git()?, &path)?;
            Ok::<_, WorkspaceError>((
                Record::for_copy(&guest_path, &repository)?,
                repository.has_credentials()?,
            ))
        });
        let (repository, action) = (repository.await?.ok(), WorkspaceAction::Place);
        let transaction = match &repository {
            Some((record, _)) => {
                let records = self.lock(vm).await?;
                let transaction = Transaction::new(records, guest.as_bytes(), action);
                let transaction = transaction.map_err(api_error_for(vm))?;
                transaction.begin(record.clone()).map_err(api_error_for(vm))?;
                Some(transaction)
            }
            None => None,
        };
        let send = move |out| {
            let mut skipped = Vec::new();
            let out = BufWriter::with_capacity(BUFFER_SIZE, out);
            pack(&source, out, &mut |message| skipped.push(message)).map_err(transfer_error)?;
            Ok(skipped)
        };
        let mut result = self.exchange(vm, guest.as_bytes(), action, send, read_time).await;
        if let Some(transaction) = &transaction {
            result = transaction.undo_if_refused(result).map_err(api_error_for(vm))?;
        }
        let (skipped, _) = result.map_err(|failure| with_occupied_hint(failure, vm, guest))?;
        skipped.into_iter().for_each(|message| self.ui.warning(message));
        if let (Some(transaction), Some((record, has_credentials))) = (transaction, repository) {
            if has_credentials {
                self.ui.warning(format_args!(
                    "the copy in VM {} includes the credentials in the repository's git configuration",
                    vm.name
                ));
            }
            transaction.complete(&record).map_err(api_error_for(vm))?;
        }
        Ok(())
    }

    /// Returns how git on the host reaches git in `vm`: through this program.
    fn guest_git(&self, vm: &Vm) -> Result<GuestGit, ApiError> {
        let program = env::current_exe().map_err(|error| ApiError::new(ErrorKind::Io, error.to_string()))?;
        let args = ["vm", "exec", "--env", PROTOCOL, vm.id.as_str(), "--"].map(OsString::from);
        Ok(GuestGit([program.into_os_string()].into_iter().chain(args).collect()))
    }

    async fn list_files(&self, vm: &Vm, guest: &[u8]) -> Result<Vec<ListedFile>, CommandError> {
        let to_api_error = api_error_for(vm);
        self.list(vm, guest, |input| read_listing(input).map_err(to_api_error)).await
    }

    async fn list<R: Send + 'static>(
        &self,
        vm: &Vm,
        guest: &[u8],
        receive: impl FnOnce(BufReader<FromGuest>) -> Result<R, ApiError> + Send + 'static,
    ) -> Result<R, CommandError> {
        let receive = |input| receive(BufReader::with_capacity(BUFFER_SIZE, input));
        let ((), listed) = self.exchange(vm, guest, WorkspaceAction::List, |_| Ok(()), receive).await?;
        Ok(listed)
    }

    /// Returns small files of the guest by path.
    async fn fetch_files(
        &self,
        vm: &Vm,
        guest: &[u8],
        request: FileRequest,
    ) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, CommandError> {
        self.fetch(vm, guest, request, read_files).await
    }

    async fn fetch<R: Send + 'static>(
        &self,
        vm: &Vm,
        guest: &[u8],
        request: FileRequest,
        receive: impl FnOnce(BufReader<FromGuest>, FileRequest) -> Result<R, WorkspaceError> + Send + 'static,
    ) -> Result<R, CommandError> {
        let paths = request.encode();
        let to_api_error = api_error_for(vm);
        let send = move |mut out: ToGuest| out.write_all(&paths).map_err(transfer_error);
        let receive =
            |input| receive(BufReader::with_capacity(BUFFER_SIZE, input), request).map_err(to_api_error);
        let ((), received) = self.exchange(vm, guest, WorkspaceAction::Fetch, send, receive).await?;
        Ok(received)
    }

    async fn exchange<S: Send + 'static, R: Send + 'static>(
        &self,
        vm: &Vm,
        guest: &[u8],
        action: WorkspaceAction,
        send: impl FnOnce(ToGuest) -> Result<S, ApiError> + Send + 'static,
        receive: impl FnOnce(FromGuest) -> Result<R, ApiError> + Send + 'static,
    ) -> Result<(S, R), CommandError> {
        let stage = match action {
            WorkspaceAction::Place | WorkspaceAction::Change => {
                format!("Sending the repository to {}", vm.name)
            }
            WorkspaceAction::List | WorkspaceAction::Fetch => {
                format!("Checking {} for unsaved work", vm.name)
            }
        };
        let request = Workspace { path: guest.to_vec(), action };
        let (client, name) = (self.client, vm.name.as_str());
        let transfer = Transfer { client, ui: self.ui, vm: name, stage: &stage, show_progress: true };
        let result = transfer.run(async |on_event, cancelled| {
            let stop = async {
                cancelled.await;
                self.cancel_git();
            };
            // Packing is of no use any more. A snapshot that is taken meanwhile may be.
            let on_failure = || {
                if matches!(action, WorkspaceAction::Place | WorkspaceAction::Change) {
                    self.cancel_git();
                }
            };
            exchange(client, name, request, send, receive, on_event, (stop, on_failure)).await
        });
        result.await
    }

    /// Returns a function that finds git, whose commands end when the current phase is cancelled.
    fn git(&self) -> impl FnOnce() -> Result<Git, WorkspaceError> + Send + use<> {
        let cancel = self.cancel.borrow().clone();
        move || Ok(Git::find()?.with_cancel(cancel))
    }

    /// Cancels the git commands of the current phase.
    fn cancel_git(&self) {
        self.cancel.borrow().cancel();
        // Without a new handle, the commands of later phases fail.
        if let Ok(cancel) = Cancel::new() {
            self.cancel.replace(cancel);
        }
    }

    /// Runs `work` on a thread that may block. A signal cancels its git commands.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, CommandError> {
        let phase = signals::cancellable();
        let mut thread = spawn_blocking(work);
        let signal = tokio::select! {
            result = &mut thread => {
                return Ok(result.map_err(|error| ApiError::new(ErrorKind::Internal, error.to_string()))?);
            }
            signal = phase.cancelled() => signal,
        };
        self.cancel_git();
        // The thread removes its temporary files; otherwise the next process does.
        let _ = timeout(CANCEL_TIMEOUT, thread).await;
        Err(signals::interrupted(signal))
    }
}

/// Returns the version of the host's git, and what the kernel applies of its confinement, unless git does not run in it.
pub(crate) async fn check_git() -> Result<(String, Result<ConfinementReport, ApiError>), ApiError> {
    let to_api_error = |error: GitError| error::to_api_error(error.into(), None);
    let checked = spawn_blocking(move || {
        let git = Git::find().map_err(to_api_error)?;
        let version = git.version().map_err(to_api_error)?;
        Ok((version, git.check_confinement().map_err(to_api_error)))
    });
    checked.await.map_err(|error| ApiError::new(ErrorKind::Internal, error.to_string()))?
}

/// The changes made in a workspace.
#[derive(Debug)]
pub(crate) struct Exported {
    pub(crate) patch: Vec<u8>,
    pub(crate) changes: Vec<Change>,
    /// Paths that are not in the patch, each with the reason.
    pub(crate) left_out: Vec<LeftOut>,
}

/// Adds a hint to the error for a `guest` path that something not sent from this host occupies.
fn with_occupied_hint(failure: CommandError, vm: &Vm, guest: &str) -> CommandError {
    match failure.error {
        Some(error) if error.kind == ErrorKind::AlreadyExists => {
            let hint = format!(
                "use another directory with --guest-path, or delete this one with: banger vm exec {} -- rm -r {guest}",
                vm.name
            );
            CommandError { error: Some(error.hint(hint)), ..failure }
        }
        error => CommandError { error, ..failure },
    }
}

/// Adds a hint to the error for a workspace that is missing in the guest, because its transfer was interrupted.
fn with_incomplete_hint(failure: CommandError, vm: &Vm, record: &Record) -> CommandError {
    let is_missing = failure.error.as_ref().is_some_and(|error| error.kind == ErrorKind::NotFound);
    failure.with_hint((is_missing && record.is_sending()).then(|| resend_hint(vm, record)))
}

/// Returns how to complete the interrupted transfer of the workspace of `record`.
fn resend_hint(vm: &Vm, record: &Record) -> String {
    let root = record.root().display();
    format!("its transfer was interrupted; complete it with: banger vm workspace prepare {} {root}", vm.name)
}

/// Returns a path for display.
pub(crate) fn display_path(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// Reads the time that the agent sends once all files are in place.
pub(crate) fn read_time(mut input: FromGuest) -> Result<Time, ApiError> {
    let mut bytes = [0; 12];
    input.read_exact(&mut bytes).map_err(transfer_error)?;
    Time::from_bytes(&bytes)
        .ok_or_else(|| ApiError::new(ErrorKind::Guest, "the guest has sent an invalid time"))
}

fn io_error(error: io::Error) -> ApiError {
    ApiError::new(ErrorKind::Io, error.to_string())
}

fn transfer_error(error: io::Error) -> ApiError {
    ApiError::new(ErrorKind::Io, format!("the transfer failed: {error}"))
}

/// Returns a function that converts errors about `vm`.
fn api_error_for(vm: &Vm) -> impl FnOnce(WorkspaceError) -> ApiError + Send + use<> {
    let name = vm.name.to_string();
    move |error| error::to_api_error(error, Some(&name))
}
