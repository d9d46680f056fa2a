//! What of a repository goes into a VM, and where to: as `run` and `workspace prepare` take it.

use std::{
    io,
    path::{Path, PathBuf},
};

use banger_api::{
    Config, Size, Vm,
    config::{FileSync, Project},
};
use banger_workspace::{Mode, Options, Snapshot};
use clap::ValueEnum;
use serde::Serialize;

use crate::{
    error::CommandError,
    file_sync,
    ui::{Table, Ui},
    workspace::{self, Put, Workspaces, shown},
};

/// Where a workspace is in the guest, unless it is said.
const GUEST_PATH: &str = "/root/repo";

/// Generations of commits, unless it is said.
pub(super) const DEPTH: u32 = 10;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Selection {
    /// Folder in the VM for the repository
    #[arg(long, default_value = GUEST_PATH, value_parser = absolute, value_name = "FOLDER")]
    pub(crate) guest_path: String,
    /// What goes: tracked files and recent history, the folder with all that is in it, or history alone
    #[arg(long, value_enum, default_value = "shallow")]
    mode: WorkspaceMode,
    /// Generations of commits that go
    #[arg(long, default_value_t = DEPTH, value_parser = clap::value_parser!(u32).range(1..), value_name = "COUNT")]
    depth: u32,
    /// Also send files that git neither tracks nor ignores
    #[arg(long)]
    include_untracked: bool,
    /// Make this branch there, and check it out
    #[arg(long, value_name = "NAME")]
    branch: Option<String>,
    /// Let that branch begin at this commit, with its files in place of those on the disk
    #[arg(long, requires = "branch", value_name = "COMMIT")]
    from: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum WorkspaceMode {
    /// Tracked files as they are on the disk, and recent history
    Shallow,
    /// The folder with all that is in it: any folder, also with submodules or ignored files
    FullCopy,
    /// Recent history, without the files
    Metadata,
}

/// What would go, for `--dry-run`.
#[derive(Debug, Serialize)]
pub(crate) struct Plan {
    root: PathBuf,
    guest_path: String,
    mode: WorkspaceMode,
    commit: Option<String>,
    branch: Option<String>,
    files: Vec<PlannedFile>,
    bytes: u64,
    left_out: usize,
    /// What it asks for of the VM.
    tools: banger_tools::Plan,
    /// The user's files that it asks for.
    file_sync: Vec<FileSync>,
    /// Whether those go.
    project_file_sync: String,
}

#[derive(Debug, Serialize)]
struct PlannedFile {
    path: String,
    size: u64,
}

/// What goes, ready to be sent, and what it asks for of the VM.
#[derive(Debug)]
pub(crate) struct Taken {
    source: WorkspaceSource,
    pub(crate) tools: banger_tools::Plan,
}

#[derive(Debug)]
enum WorkspaceSource {
    Snapshot(Box<Snapshot>),
    Folder(PathBuf),
}

impl Selection {
    /// Takes what is selected of what `path` is in, whose own file says `project`.
    pub(crate) async fn take(
        &self,
        workspaces: &Workspaces<'_>,
        path: &Path,
        project: Option<&Project>,
    ) -> Result<Taken, CommandError> {
        let own = workspace::tools::own(project);
        let Some(options) = self.options() else {
            return Ok(Taken {
                source: WorkspaceSource::Folder(path.to_owned()),
                tools: banger_tools::plan(path, own),
            });
        };
        let snapshot = workspaces.snapshot(path, options).await?;
        let tools = banger_tools::plan(snapshot.repository().root(), own);
        Ok(Taken { source: WorkspaceSource::Snapshot(Box::new(snapshot)), tools })
    }

    /// Sends what was taken to `vm`.
    pub(crate) async fn put(
        &self,
        workspaces: &Workspaces<'_>,
        ui: &Ui,
        vm: &Vm,
        taken: Taken,
    ) -> Result<(), CommandError> {
        match taken.source {
            WorkspaceSource::Folder(path) => workspaces.copy(vm, &self.guest_path, &path).await,
            WorkspaceSource::Snapshot(snapshot) => {
                let put = workspaces.put(vm, &self.guest_path, move || Ok(*snapshot)).await?;
                left_behind(ui, &put);
                Ok(())
            }
        }
    }

    /// Takes what is selected of what `path` is in, and sends it to `vm`.
    pub(crate) async fn take_and_put(
        &self,
        workspaces: &Workspaces<'_>,
        ui: &Ui,
        vm: &Vm,
        path: &Path,
    ) -> Result<Option<Put>, CommandError> {
        let Some(options) = self.options() else {
            return workspaces.copy(vm, &self.guest_path, path).await.map(|()| None);
        };
        let put = workspaces.put(vm, &self.guest_path, workspaces.looking(path, options)).await?;
        left_behind(ui, &put);
        Ok(Some(put))
    }

    /// What is wanted of a snapshot; `None` when all of the folder is.
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

    /// What would go where `config` applies.
    pub(crate) fn plan(&self, taken: &Taken, config: &Config) -> Plan {
        let empty = Plan {
            root: PathBuf::new(),
            guest_path: self.guest_path.clone(),
            mode: self.mode,
            commit: None,
            branch: None,
            files: Vec::new(),
            bytes: 0,
            left_out: 0,
            tools: taken.tools.clone(),
            file_sync: config.project().map(|project| project.file_sync.clone()).unwrap_or_default(),
            project_file_sync: config.project_file_sync().to_string(),
        };
        match &taken.source {
            WorkspaceSource::Folder(path) => Plan { root: path.clone(), ..empty },
            WorkspaceSource::Snapshot(snapshot) => {
                let files: Vec<_> =
                    snapshot.files().map(|(path, size)| PlannedFile { path: shown(path), size }).collect();
                Plan {
                    root: snapshot.repository().root().to_owned(),
                    commit: snapshot.commit().map(str::to_owned),
                    branch: snapshot.branch().map(str::to_owned),
                    bytes: files.iter().map(|file| file.size).sum(),
                    files,
                    left_out: snapshot.left_out(),
                    ..empty
                }
            }
        }
    }
}

impl Plan {
    /// Prints it for people: the files as data, the rest as talk.
    pub(crate) fn print(&self, ui: &Ui) -> Result<(), CommandError> {
        let mut table = Table::new(["SIZE", "FILE"]);
        for file in &self.files {
            table.row([Size::bytes(file.size).to_string(), file.path.clone()]);
        }
        ui.table(table)?;
        self.print_asked_for(ui)?;
        for note in &self.tools.notes {
            ui.note(note);
        }
        let commit = self.commit.as_deref().map(|id| id.get(..12).unwrap_or(id)).unwrap_or("no commit");
        let branch = self.branch.as_deref().unwrap_or("no branch");
        let Self { root, guest_path, files, bytes, left_out, .. } = self;
        ui.note(format_args!(
            "{} would go to {guest_path}: {} files, {}, at {commit} on {branch}; {left_out} untracked files would not",
            root.display(),
            files.len(),
            Size::bytes(*bytes),
        ));
        Ok(())
    }

    /// What the repository asks for, a table a kind.
    fn print_asked_for(&self, ui: &Ui) -> io::Result<()> {
        let mut tools = Table::new(["TOOL", "VERSION", "ASKED FOR IN", "WHY"]);
        for tool in &self.tools.tools {
            let (name, version) = (tool.name.to_string(), tool.version.to_string());
            tools.row([name, version, tool.source.to_string(), tool.reason.clone()]);
        }
        let mut variables = Table::new(["VARIABLE", "ASKED FOR IN"]);
        for variable in &self.tools.env {
            variables.row([variable.name.to_string(), variable.source.to_string()]);
        }
        let mut ports = Table::new(["PORT", "HERE", "ASKED FOR IN"]);
        for port in &self.tools.ports {
            ports.row([port.guest.to_string(), port.host.to_string(), port.source.to_string()]);
        }
        let mut setup = Table::new(["COMMAND", "ASKED FOR IN", "AS"]);
        for command in &self.tools.setup {
            let name = command.name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
            setup.row([command.label(), command.source.to_string(), format!("{}{name}", command.key)]);
        }
        let files = file_sync::table(&self.file_sync);
        for table in [tools, variables, ports, setup, files].into_iter().filter(|table| !table.is_empty()) {
            ui.line("")?;
            ui.table(table)?;
        }
        if !self.file_sync.is_empty() {
            ui.note(format_args!(
                "project_file_sync says whether those files go: {}",
                self.project_file_sync
            ));
        }
        Ok(())
    }
}

/// Tells what does not go.
fn left_behind(ui: &Ui, put: &Put) {
    match put.left_out {
        0 => {}
        1 => ui.note("one untracked file stays here; --include-untracked takes it along"),
        count => {
            ui.note(format_args!("{count} untracked files stay here; --include-untracked takes them along"))
        }
    }
    for repository in &put.repositories {
        ui.note(format_args!("{} is a repository of its own, and stays here", shown(repository)));
    }
}

fn absolute(path: &str) -> Result<String, String> {
    let trimmed = path.trim_end_matches('/');
    if !trimmed.starts_with('/') || trimmed.split('/').any(|name| matches!(name, "." | "..")) {
        return Err("it must be an absolute path, such as /root/repo".to_owned());
    }
    Ok(trimmed.to_owned())
}
