//! The repository content to send to a VM, and its path there: arguments of `run` and `workspace prepare`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use banger_api::{
    Config, Size, Vm,
    config::{FileSync, Project},
};
use banger_workspace::{Mode, Options, Snapshot};
use clap::ValueEnum;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    error::CommandError,
    file_sync,
    ui::{Table, Ui},
    workspace::{self, SendSummary, Workspaces, display_path},
};

/// Default path of a workspace in the guest.
const DEFAULT_GUEST_PATH: &str = "/root/repo";

/// Default number of commit generations to send.
pub(super) const DEFAULT_DEPTH: u32 = 10;

/// Note about a part of the configuration that is not sent.
const ORIGIN_CREDENTIALS: &str =
    "the VM gets the URL of origin without the user name, password or token in it";

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Selection {
    /// Directory in the VM for the repository
    #[arg(long, default_value = DEFAULT_GUEST_PATH, value_parser = absolute_path, value_name = "DIRECTORY")]
    pub(crate) guest_path: String,
    /// Content to send: tracked files and recent history, the whole directory, or history only
    #[arg(long, value_enum, default_value = "shallow")]
    mode: WorkspaceMode,
    /// Number of commit generations to send
    #[arg(
        long,
        default_value_t = DEFAULT_DEPTH,
        value_parser = clap::value_parser!(u32).range(1..),
        value_name = "COUNT"
    )]
    depth: u32,
    /// Also send files that git neither tracks nor ignores
    #[arg(long)]
    include_untracked: bool,
    /// Create this branch in the VM, and check it out
    #[arg(long, value_name = "NAME")]
    branch: Option<String>,
    /// Start that branch at this commit, with its files instead of those on disk
    #[arg(long, requires = "branch", value_name = "COMMIT")]
    from: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum WorkspaceMode {
    /// Tracked files in their state on disk, and recent history
    Shallow,
    /// The whole directory, which may have submodules or ignored files, or no repository
    FullCopy,
    /// Recent history, without the files
    Metadata,
}

/// The content that would be sent, for `--dry-run`.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "DryRun")]
pub(crate) struct Plan {
    /// The repository's root on the host.
    root: PathBuf,
    /// Its directory in the VM.
    guest_path: String,
    /// What would be sent.
    mode: WorkspaceMode,
    /// The commit that would be checked out, if there is one.
    commit: Option<String>,
    /// The branch that would be checked out, if there is one.
    branch: Option<String>,
    /// The files that would be sent.
    files: Vec<PlannedFile>,
    /// Total size of those files.
    bytes: u64,
    /// Number of untracked files that would not be sent.
    left_out: usize,
    /// The URL of `origin` that would be sent, without credentials.
    origin: Option<String>,
    /// Whether the URL of `origin` on the host has credentials, which would not be sent.
    origin_credentials: bool,
    /// Tools, variables, ports and setup commands that the repository requests.
    tools: banger_tools::Plan,
    /// The user's files that it requests.
    file_sync: Vec<FileSync>,
    /// The setting that decides whether those are sent.
    project_file_sync: String,
    /// The setting that decides whether the ports are opened on the host.
    project_ports: String,
}

/// A file that would be sent.
#[derive(Debug, Serialize, JsonSchema)]
struct PlannedFile {
    /// Its path in the repository.
    path: String,
    /// Its size in bytes.
    size: u64,
}

/// Content ready to be sent, and the plan for its tools.
#[derive(Debug)]
pub(crate) struct PreparedContent {
    source: WorkspaceSource,
    pub(crate) tools: banger_tools::Plan,
}

#[derive(Debug)]
enum WorkspaceSource {
    Snapshot(Box<Snapshot>),
    Directory(PathBuf),
}

impl PreparedContent {
    /// Returns the root directory of the repository, or the directory to copy.
    pub(crate) fn root(&self) -> &Path {
        match &self.source {
            WorkspaceSource::Snapshot(snapshot) => snapshot.repository().root(),
            WorkspaceSource::Directory(path) => path,
        }
    }
}

impl Selection {
    /// Prepares the selected content of the repository at `path`; `project` is the content of its own file.
    pub(crate) async fn prepare(
        &self,
        workspaces: &Workspaces<'_>,
        path: &Path,
        project: Option<&Project>,
    ) -> Result<PreparedContent, CommandError> {
        let settings = workspace::tools::project_settings(project);
        let Some(options) = self.options() else {
            return Ok(PreparedContent {
                source: WorkspaceSource::Directory(
                    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()),
                ),
                tools: banger_tools::plan(path, settings),
            });
        };
        let snapshot = workspaces.snapshot(path, options).await?;
        let tools = banger_tools::plan(snapshot.repository().root(), settings);
        Ok(PreparedContent { source: WorkspaceSource::Snapshot(Box::new(snapshot)), tools })
    }

    /// Sends the prepared content to `vm`.
    pub(crate) async fn send(
        &self,
        workspaces: &Workspaces<'_>,
        ui: &Ui,
        vm: &Vm,
        prepared: PreparedContent,
    ) -> Result<(), CommandError> {
        match prepared.source {
            WorkspaceSource::Directory(path) => workspaces.copy(vm, &self.guest_path, &path).await,
            WorkspaceSource::Snapshot(snapshot) => {
                let summary = workspaces.send_snapshot(vm, &self.guest_path, move || Ok(*snapshot)).await?;
                report_left_out(ui, &summary);
                Ok(())
            }
        }
    }

    /// Prepares the selected content of the repository at `path`, and sends it to `vm`.
    pub(crate) async fn prepare_and_send(
        &self,
        workspaces: &Workspaces<'_>,
        ui: &Ui,
        vm: &Vm,
        path: &Path,
    ) -> Result<Option<SendSummary>, CommandError> {
        let Some(options) = self.options() else {
            return workspaces.copy(vm, &self.guest_path, path).await.map(|()| None);
        };
        let summary = workspaces
            .send_snapshot(vm, &self.guest_path, workspaces.deferred_snapshot(path, options))
            .await?;
        report_left_out(ui, &summary);
        Ok(Some(summary))
    }

    /// Returns the options of a snapshot; `None` for a full copy.
    fn options(&self) -> Option<Options> {
        let mode = match self.mode {
            WorkspaceMode::FullCopy => return None,
            WorkspaceMode::Shallow => Mode::Shallow,
            WorkspaceMode::Metadata => Mode::Metadata,
        };
        Some(Options {
            mode,
            depth: self.depth,
            include_untracked: self.include_untracked,
            branch: self.branch.clone(),
            from: self.from.clone(),
        })
    }

    /// Returns the plan for sending `prepared` with this `config`.
    pub(crate) fn plan(&self, prepared: &PreparedContent, config: &Config) -> Plan {
        let empty = Plan {
            root: PathBuf::new(),
            guest_path: self.guest_path.clone(),
            mode: self.mode,
            commit: None,
            branch: None,
            files: Vec::new(),
            bytes: 0,
            left_out: 0,
            origin: None,
            origin_credentials: false,
            tools: prepared.tools.clone(),
            file_sync: config.project().map(|project| project.file_sync.clone()).unwrap_or_default(),
            project_file_sync: config.project_file_sync().to_string(),
            project_ports: config.project_ports().to_string(),
        };
        match &prepared.source {
            WorkspaceSource::Directory(path) => Plan { root: path.clone(), ..empty },
            WorkspaceSource::Snapshot(snapshot) => {
                let files: Vec<_> = snapshot
                    .files()
                    .map(|(path, size)| PlannedFile { path: display_path(path), size })
                    .collect();
                Plan {
                    root: snapshot.repository().root().to_owned(),
                    commit: snapshot.commit().map(str::to_owned),
                    branch: snapshot.branch().map(str::to_owned),
                    bytes: files.iter().map(|file| file.size).sum(),
                    files,
                    left_out: snapshot.left_out(),
                    origin: snapshot.repository().origin().map(|url| display_path(&url)),
                    origin_credentials: snapshot.repository().has_origin_credentials(),
                    ..empty
                }
            }
        }
    }
}

impl Plan {
    /// Prints the plan: tables on standard output, the rest on standard error.
    pub(crate) fn print(&self, ui: &Ui) -> Result<(), CommandError> {
        let mut table = Table::new(["SIZE", "FILE"]);
        for file in &self.files {
            table.row([Size::bytes(file.size).to_string(), file.path.clone()]);
        }
        ui.table(&table)?;
        self.print_requests(ui)?;
        for note in &self.tools.notes {
            ui.note(note);
        }
        if self.origin_credentials {
            ui.note(ORIGIN_CREDENTIALS);
        }
        let commit = self.commit.as_deref().map(|id| id.get(..12).unwrap_or(id)).unwrap_or("no commit");
        let branch = self.branch.as_deref().unwrap_or("no branch");
        let Self { root, guest_path, files, bytes, left_out, .. } = self;
        ui.note(format_args!(
            "would send {} to {guest_path}: {} files, {}, at {commit} on {branch}, without {left_out} untracked files",
            root.display(),
            files.len(),
            Size::bytes(*bytes),
        ));
        Ok(())
    }

    /// Prints what the repository requests, with a table for each kind.
    fn print_requests(&self, ui: &Ui) -> io::Result<()> {
        let mut tools = Table::new(["TOOL", "VERSION", "SOURCE", "REASON"]);
        for tool in &self.tools.tools {
            let (name, version) = (tool.name.to_string(), tool.version.to_string());
            tools.row([name, version, tool.source.to_string(), tool.reason.clone()]);
        }
        let mut variables = Table::new(["VARIABLE", "SOURCE"]);
        for variable in &self.tools.env {
            variables.row([variable.name.to_string(), variable.source.to_string()]);
        }
        let ports = workspace::tools::port_table(&self.tools.ports);
        let mut setup = Table::new(["COMMAND", "SOURCE", "KEY"]);
        for command in &self.tools.setup {
            let name = command.name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
            setup.row([command.label(), command.source.to_string(), format!("{}{name}", command.key)]);
        }
        let files = file_sync::table(&self.file_sync);
        for table in [tools, variables, ports, setup, files].into_iter().filter(|table| !table.is_empty()) {
            ui.line("")?;
            ui.table(&table)?;
        }
        if !self.tools.ports.is_empty() {
            ui.note(format_args!(
                "project_ports decides whether these ports are opened: {}",
                self.project_ports
            ));
        }
        if !self.file_sync.is_empty() {
            ui.note(format_args!(
                "project_file_sync decides whether these files are sent: {}",
                self.project_file_sync
            ));
        }
        Ok(())
    }
}

/// Reports what is not sent.
fn report_left_out(ui: &Ui, summary: &SendSummary) {
    match summary.left_out {
        0 => {}
        1 => ui.note("one untracked file was not sent; --include-untracked sends it"),
        count => {
            ui.note(format_args!("{count} untracked files were not sent; --include-untracked sends them too"))
        }
    }
    for repository in &summary.repositories {
        ui.note(format_args!("{} is a nested repository and was not sent", display_path(repository)));
    }
    if summary.origin_credentials {
        ui.note(ORIGIN_CREDENTIALS);
    }
}

fn absolute_path(path: &str) -> Result<String, String> {
    let trimmed = path.trim_end_matches('/');
    if !trimmed.starts_with('/') || trimmed.split('/').any(|name| matches!(name, "." | "..")) {
        return Err("it must be an absolute path, such as /root/repo".to_owned());
    }
    Ok(trimmed.to_owned())
}
