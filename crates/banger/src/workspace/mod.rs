//! Workspaces: a user's repository in a VM, its record on the host, and the changes made in the guest.

mod error;
mod rescue;
pub(crate) mod tools;

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use banger_api::{ApiError, ErrorKind, Vm};
use banger_client::{Client, FromGuest, ToGuest, exchange};
use banger_files::{FileRequest, ListedFile, Time, pack};
use banger_proto::{Workspace, WorkspaceAction};
use banger_workspace::{
    Change, Git, GuestGit, LeftOut, Options, PROTOCOL, Record, Records, Repository, Snapshot, Upload,
    UploadResult, WorkspaceError, read_files, read_listing,
};
use tokio::task::spawn_blocking;

use crate::{
    error::CommandError,
    transfer::{Transfer, open_source},
    ui::Ui,
};

/// Size of transfer buffers, in bytes.
const BUFFER_SIZE: usize = 64 << 10;

/// All of the user's workspaces.
#[derive(Debug)]
pub(crate) struct Workspaces<'a> {
    client: &'a Client,
    ui: &'a Ui,
    records: Records,
    cache: PathBuf,
    /// Directory for data from guests, which may be large: not the cache, which may be in memory.
    scratch: PathBuf,
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
    pub(crate) fn new(client: &'a Client, ui: &'a Ui) -> Self {
        let dirs = client.dirs();
        let records = Records::new(dirs.state.join("workspaces"));
        let (cache, scratch) = (dirs.cache.join("workspace"), dirs.state.join("rescue"));
        Self { client, ui, records, cache, scratch }
    }

    /// Returns the daemon's client.
    pub(crate) fn client(&self) -> &'a Client {
        self.client
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

    /// Deletes the records of a deleted VM's workspaces.
    pub(crate) fn delete_records(&self, vm: &Vm) {
        if let Err(error) = self.records.remove(vm.id.as_str()) {
            self.ui.warning(format_args!("cannot delete the workspace records of VM {}: {error}", vm.name));
        }
    }

    /// Returns a function that takes a snapshot of the repository containing `path` when called.
    pub(crate) fn deferred_snapshot(&self, path: &Path, options: Options) -> impl TakeSnapshot + use<> {
        let (path, cache) = (path.to_owned(), self.cache.clone());
        move || {
            let repository = Repository::find(&Git::find()?, &path)?;
            Snapshot::take(repository, &options, &cache)
        }
    }

    /// Takes a snapshot of the repository containing `path`.
    pub(crate) async fn snapshot(&self, path: &Path, options: Options) -> Result<Snapshot, ApiError> {
        blocking(self.deferred_snapshot(path, options))
            .await?
            .map_err(|error| error::to_api_error(error, None))
    }

    /// Sends the snapshot that `take_snapshot` takes to `guest` in `vm`: all of it, or the changes since the last time.
    /// The guest prepares at the same time.
    pub(crate) async fn send_snapshot(
        &self,
        vm: &Vm,
        guest: &str,
        take_snapshot: impl TakeSnapshot,
    ) -> Result<SendSummary, CommandError> {
        let record = self.records.find(vm.id.as_str(), guest.as_bytes()).map_err(api_error_for(vm))?;
        let Some(record) = record else { return self.send_new(vm, guest, take_snapshot).await };
        let (listed, snapshot) = tokio::join!(self.list_files(vm, guest.as_bytes()), blocking(take_snapshot));
        let snapshot = snapshot?.map_err(api_error_for(vm))?;
        let listed = match listed {
            // A deleted directory is sent again in full.
            Err(CommandError { error: Some(error), .. }) if error.kind == ErrorKind::NotFound => {
                return self.send_new(vm, guest, move || Ok(snapshot)).await;
            }
            listed => listed?,
        };
        let index = if Upload::has_own_index(&record, &listed) {
            self.fetch_files(vm, guest.as_bytes(), Upload::index_file(&listed)).await?.into_values().next()
        } else {
            None
        };
        let summary = SendSummary::default().with_left_out(&snapshot);
        let changes = blocking(move || Upload::changes(snapshot, record, &listed, index.as_deref())).await?;
        match changes.map_err(api_error_for(vm))? {
            Some(upload) => {
                let send = move |out| Ok((upload.write(out)?, summary));
                self.send_and_record(vm, guest.as_bytes(), WorkspaceAction::Change, send).await
            }
            None => Ok(summary),
        }
    }

    /// Sends the whole snapshot that `take_snapshot` takes to `guest` in `vm`, which must not exist.
    async fn send_new(
        &self,
        vm: &Vm,
        guest: &str,
        take_snapshot: impl TakeSnapshot,
    ) -> Result<SendSummary, CommandError> {
        let guest_path = guest.as_bytes().to_vec();
        let send = move |out| {
            let snapshot = take_snapshot()?;
            let origin_credentials = snapshot.repository().has_origin_credentials();
            let summary =
                SendSummary { origin_credentials, ..SendSummary::default().with_left_out(&snapshot) };
            Ok((Upload::full(snapshot, &guest_path).write(out)?, summary))
        };
        let result = self.send_and_record(vm, guest.as_bytes(), WorkspaceAction::Place, send).await;
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
        match Upload::commits(snapshot, record).map_err(api_error_for(vm))? {
            Some(upload) => {
                let send = move |out| Ok((upload.write(out)?, SendSummary::default()));
                self.send_and_record(vm, &guest, WorkspaceAction::Change, send).await?;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Sends what `write` writes, then stores the workspace's record.
    async fn send_and_record(
        &self,
        vm: &Vm,
        guest: &[u8],
        action: WorkspaceAction,
        write: impl FnOnce(BufWriter<ToGuest>) -> Result<(UploadResult, SendSummary), WorkspaceError>
        + Send
        + 'static,
    ) -> Result<SendSummary, CommandError> {
        let to_api_error = api_error_for(vm);
        let send = move |out| write(BufWriter::with_capacity(BUFFER_SIZE, out)).map_err(to_api_error);
        let ((sent, summary), placed_at) = self.exchange(vm, guest, action, send, read_time).await?;
        let summary = SendSummary { files: sent.files, removed: sent.removed, ..summary };
        self.save_record(vm, &sent.into_record(placed_at))?;
        Ok(summary)
    }

    /// Copies the directory `path` with all its contents to `guest` in `vm`.
    pub(crate) async fn copy(&self, vm: &Vm, guest: &str, path: &Path) -> Result<(), CommandError> {
        let source = open_source(&path.join("."), false)?;
        let send = move |out| {
            let mut skipped = Vec::new();
            let out = BufWriter::with_capacity(BUFFER_SIZE, out);
            pack(&source, out, &mut |message| skipped.push(message)).map_err(transfer_error)?;
            Ok(skipped)
        };
        let result = self.exchange(vm, guest.as_bytes(), WorkspaceAction::Place, send, read_time).await;
        let (skipped, _) = result.map_err(|failure| with_occupied_hint(failure, vm, guest))?;
        skipped.into_iter().for_each(|message| self.ui.warning(message));
        let (path, guest_path) = (path.to_owned(), guest.as_bytes().to_vec());
        // Without a repository, only `vm cp` can copy the directory out again.
        let record = blocking(move || {
            Git::find().map_err(WorkspaceError::from).and_then(|git| Repository::find(&git, &path)).and_then(
                |repository| Ok((Record::for_copy(&guest_path, &repository)?, repository.has_credentials()?)),
            )
        });
        if let Ok((record, has_credentials)) = record.await? {
            if has_credentials {
                self.ui.warning(format_args!(
                    "the copy in VM {} includes the credentials in the repository's git configuration",
                    vm.name
                ));
            }
            self.save_record(vm, &record)?;
        }
        Ok(())
    }

    fn save_record(&self, vm: &Vm, record: &Record) -> Result<(), ApiError> {
        self.records.save(vm.id.as_str(), record).map_err(api_error_for(vm))
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
        transfer
            .run(async |on_event, cancelled| {
                exchange(client, name, request, send, receive, on_event, cancelled).await
            })
            .await
    }
}

/// Returns the version of the host's git.
pub(crate) async fn git_version() -> Result<String, ApiError> {
    let version = blocking(|| Git::find()?.version()).await?;
    version.map_err(|error| error::to_api_error(error.into(), None))
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

fn transfer_error(error: io::Error) -> ApiError {
    ApiError::new(ErrorKind::Io, format!("the transfer failed: {error}"))
}

/// Returns a function that converts errors about `vm`.
fn api_error_for(vm: &Vm) -> impl FnOnce(WorkspaceError) -> ApiError + Send + use<> {
    let name = vm.name.to_string();
    move |error| error::to_api_error(error, Some(&name))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    spawn_blocking(work).await.map_err(|error| ApiError::new(ErrorKind::Internal, error.to_string()))
}
