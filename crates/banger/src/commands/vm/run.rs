use std::{path::PathBuf, process::ExitCode};

use banger_api::{
    ApiError, Config, CreateVm, Vm,
    config::{FileSync, PROJECT_FILE},
};
use banger_client::{Client, Events};
use banger_tools::Plan;
use banger_workspace::LockedRecords;

use super::{
    entry,
    hardware::Hardware,
    publish::{PublishArgs, from_plan, print_published},
    workspace::selection::{PreparedContent, Selection},
};
use crate::{
    commands::{
        temporary_vm,
        variables::{variable, variables},
    },
    config, consent,
    error::CommandError,
    file_sync,
    operation::watch,
    session::{self, GuestCommand, SessionEnd},
    signals::{self, Cancellable},
    ui::{Output, Timing, Ui, now_ns},
    workspace::{
        Workspaces,
        tools::{self, Job},
    },
};

/// Create a VM and run a command or a shell in it
///
/// With PATH, banger sends the git repository that contains it, in its current state on disk, and runs the command
/// there as root. Without PATH, the command runs in the image's working directory and as the image's user. Without
/// PATH and without a command, banger runs the image's entrypoint and command if the image has no init. Otherwise the
/// default is a login shell. A command replaces the image's entrypoint; --entrypoint sets another one. The image's
/// environment variables are set for everything that runs in the VM.
///
/// The exit status is the command's own, 128+n if signal n ended it, or 125 if banger itself failed. The VM is kept
/// afterwards. With --rm it is deleted, after saving work in the repository that exists nowhere else on the host, as
/// refs/banger/VM/...
///
/// Once the repository is in the VM, banger installs the tools that it requires and runs the setup commands of its
/// banger.toml, or else of its dev container: once, in the background, with a log in the VM.
/// It asks you before it publishes ports that the repository requests.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger vm run .
  banger vm run --rm . -- make test
  banger vm run -p 3000 . -- npm run dev
  banger vm run -P . -- make serve
  banger vm run --rm -- uname -a
  banger vm run --rm --vcpu 4 --memory 4G -- sh -c 'nproc; free -m'
  banger vm run --rm --image alpine:3.20 -- cat /etc/os-release
  banger vm run --rm --image alpine --entrypoint /bin/echo -- hello
  echo hello | banger vm run --rm -- cat
  banger vm run -d --name box")]
pub(crate) struct Run {
    /// Path in the git repository to send [default: none]
    path: Option<PathBuf>,
    #[command(flatten)]
    selection: Selection,
    /// Show what would be sent and what the repository requires, and create nothing
    #[arg(long, requires = "path")]
    dry_run: bool,
    /// Print the dry run as a table or JSON
    #[arg(short, long, value_enum, default_value = "table", value_name = "FORMAT", requires = "dry_run")]
    output: Output,
    #[command(flatten)]
    hardware: Hardware,
    /// Set an environment variable for the command; without VALUE, copy it from the host
    #[arg(short, long, value_parser = variable, value_name = "NAME[=VALUE]")]
    env: Vec<(String, String)>,
    /// Set environment variables from a file, one NAME=VALUE per line; --env overrides them
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    #[command(flatten)]
    publish: PublishArgs,
    /// Wait for the repository's tools and setup commands before running the command
    #[arg(long, requires = "path", conflicts_with = "no_tools")]
    wait_tools: bool,
    /// Do not install the repository's tools or run its setup commands
    #[arg(long, requires = "path")]
    no_tools: bool,
    /// Delete the VM when the session ends, also after a failure
    #[arg(long, conflicts_with = "detach")]
    rm: bool,
    /// With --rm, delete unsaved work in the repository too
    #[arg(long, requires = "rm")]
    discard: bool,
    /// Leave the VM running in the background and print its name
    #[arg(short, long, conflicts_with = "command")]
    detach: bool,
    /// Run this program instead of the image's entrypoint, with CMD as its arguments
    #[arg(long, value_name = "PROGRAM", conflicts_with = "detach")]
    entrypoint: Option<String>,
    /// Print how long each step took
    #[arg(long)]
    timing: bool,
    /// Command and its arguments [default: the image's own if it has no init, else a login shell]
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

impl Run {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        self.create_and_run(ui).await.map_err(CommandError::into_session)
    }

    async fn create_and_run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let workspaces = Workspaces::new(&client, ui)?;
        let mut timing = Timing::new(ui);
        timing.record("start banger", ui.start_ns);
        let variables = variables(&self.env_file, self.env.clone())?;
        let config = config::load_for(self.path.as_deref())?;
        let prepared = self.prepare_repository(&workspaces, &config, &mut timing).await?;
        if let Some(prepared) = prepared.as_ref().filter(|_| self.dry_run) {
            let plan = self.selection.plan(prepared, &config);
            match self.output {
                Output::Json => ui.json(&plan)?,
                Output::Table => plan.print(ui)?,
            }
            return Ok(ExitCode::SUCCESS);
        }
        let mut files = config.file_sync().to_vec();
        if prepared.is_some() {
            files.extend(consent::permitted_files(&config, &client.dirs().state, ui)?);
        }
        let mut plan = prepared.as_ref().map(|prepared| prepared.tools.clone()).unwrap_or_default();
        if let Some(prepared) = &prepared {
            let (root, state) = (prepared.root(), &client.dirs().state);
            plan.ports =
                consent::permitted_ports(&config, root, &plan.ports, &self.publish.publish, state, ui)?;
        }
        // Notes about other files may be meant for other programs; this file is banger's own.
        let own_notes = plan.notes.iter().filter(|note| note.location.file == PROJECT_FILE);
        own_notes.for_each(|note| ui.warning(note));
        // The daemon must not delete a VM that may have unsaved work.
        let rm = self.rm && (prepared.is_none() || self.discard);
        let request_start = now_ns();
        let hardware = self.hardware.request(&config, &client, ui).await?;
        let publish_or_other = from_plan(&plan);
        let publish = self.publish.publish.clone();
        let publish_all = self.publish.publish_all;
        let request =
            CreateVm { rm, detach: self.detach, publish, publish_or_other, publish_all, ..hardware };
        let mut phase = signals::cancellable();
        let mut events = phase.run(client.run_vm(&request)).await??;
        timing.record("connect to bangerd", request_start);
        let (vm, spans) = watch::<Vm>(&client, &mut events, ui).await?;
        timing.add(spans);
        print_published(ui, &vm);
        let remains = self.remains(&vm, rm);
        phase.set_last_words(&remains);
        let running = RunningVm { client: &client, workspaces: &workspaces, ui, vm: &vm, phase: &phase };
        if let Err(failure) = self.send_content(running, files, prepared, &mut timing).await {
            // Without its content, the VM is of no use, and nothing was done in it.
            let _phase = signals::cleanup();
            running.delete(None, events).await?;
            return Err(failure);
        }
        let ended = self.use_vm(running, plan, variables, &mut timing).await;
        if ended.is_err() || !self.detach {
            let start = now_ns();
            let deleted = self.delete_unless_kept(running, events, &remains).await;
            timing.record("delete", start);
            match (&ended, deleted) {
                (Ok(_), deleted) => deleted?,
                (Err(_), Err(CommandError { error: Some(error), .. })) => ui.error(&error),
                (Err(_), _) => {}
            }
        }
        let end = ended?;
        if self.timing {
            timing.print(ui, end.as_ref().map_or_else(now_ns, |end| end.first_byte_ns));
        }
        Ok(end.map_or(0, |end| end.status.shell_code()).into())
    }

    /// Sets up the tools in a new VM, and runs the command in it. Returns the session's end, unless the VM is left in
    /// the background.
    async fn use_vm(
        &self,
        running: RunningVm<'_>,
        plan: Plan,
        variables: Vec<(String, String)>,
        timing: &mut Timing,
    ) -> Result<Option<SessionEnd>, CommandError> {
        let RunningVm { client, ui, vm, phase, .. } = running;
        if self.path.is_some() && !self.no_tools {
            let dir = &self.selection.guest_path;
            let job = Job { plan: &plan, dir, env: &variables, wait: self.wait_tools };
            tools::run_job(client, ui, vm, job).await?;
        }
        if self.detach {
            ui.line(&vm.name)?;
            return Ok(None);
        }
        let project_env = plan.env.into_iter().map(|variable| (variable.name.to_string(), variable.value));
        let env = project_env.chain(variables).collect();
        let start = now_ns();
        let guest_command = phase.run(self.guest_command(client, vm)).await??;
        let session = session::run(client, vm.id.as_str(), GuestCommand { env, ..guest_command });
        let end = session.await?;
        timing.record("session", start);
        Ok(Some(end))
    }

    /// With --rm, saves the work in the VM and deletes the VM. A signal while work is saved keeps the VM; `remains` then
    /// says so.
    async fn delete_unless_kept(
        &self,
        running: RunningVm<'_>,
        session: Events,
        remains: &str,
    ) -> Result<(), CommandError> {
        let RunningVm { workspaces, ui, vm, .. } = running;
        if !self.rm {
            ui.note(remains);
            return Ok(());
        }
        let _phase = signals::cleanup();
        let saved = if self.discard { Ok(None) } else { workspaces.save_work(vm).await };
        match saved {
            Ok(records) => running.delete(records, session).await,
            Err(failure) => {
                if let Some(error) = &failure.error {
                    ui.error(error);
                }
                ui.warning(format_args!("the work in VM {} could not be saved", vm.name));
                ui.note(remains);
                // The exit status of the command says more than that of a failure which is already reported.
                if failure.error.is_some() { Ok(()) } else { Err(failure) }
            }
        }
    }

    /// Returns what remains of the VM after this command, and how to continue.
    fn remains(&self, vm: &Vm, deleted_by_daemon: bool) -> String {
        let name = &vm.name;
        if deleted_by_daemon {
            format!("bangerd deletes VM {name}")
        } else if self.rm {
            format!(
                "VM {name} is kept with its work; save the work and delete the VM with: banger vm delete --force {name}"
            )
        } else {
            format!("VM {name} is kept; delete it with: banger vm delete {name}")
        }
    }

    /// Returns the command to run in `vm`, without environment variables.
    async fn guest_command(&self, client: &Client, vm: &Vm) -> Result<GuestCommand, ApiError> {
        if self.path.is_none() {
            let image = client.image(&vm.image).await?;
            return Ok(entry::guest_command(&image, self.entrypoint.as_deref(), &self.command));
        }
        let argv = self.entrypoint.iter().chain(&self.command).cloned().collect();
        Ok(GuestCommand { argv, cwd: Some(self.selection.guest_path.clone()), ..GuestCommand::default() })
    }

    /// Prepares the repository to send, if there is one.
    async fn prepare_repository(
        &self,
        workspaces: &Workspaces<'_>,
        config: &Config,
        timing: &mut Timing,
    ) -> Result<Option<PreparedContent>, CommandError> {
        let Some(path) = &self.path else { return Ok(None) };
        let start = now_ns();
        let prepared = self.selection.prepare(workspaces, path, config.project()).await?;
        timing.record("read the repository", start);
        Ok(Some(prepared))
    }

    /// Copies files and the repository into `vm`.
    async fn send_content(
        &self,
        running: RunningVm<'_>,
        files: Vec<FileSync>,
        prepared: Option<PreparedContent>,
        timing: &mut Timing,
    ) -> Result<(), CommandError> {
        let RunningVm { client, workspaces, ui, vm, .. } = running;
        file_sync::copy_files(client, ui, vm, files).await?;
        let Some(prepared) = prepared else { return Ok(()) };
        let start = now_ns();
        self.selection.send(workspaces, ui, vm, prepared).await?;
        timing.record("send the repository", start);
        Ok(())
    }
}

/// A VM in which a command runs.
#[derive(Debug, Clone, Copy)]
struct RunningVm<'a> {
    client: &'a Client,
    workspaces: &'a Workspaces<'a>,
    ui: &'a Ui,
    vm: &'a Vm,
    /// The phase from the VM's creation to its end.
    phase: &'a Cancellable,
}

impl RunningVm<'_> {
    /// Deletes the VM and the records of its workspaces, of which the caller has locked `records`.
    async fn delete(self, records: Option<LockedRecords>, session: Events) -> Result<(), CommandError> {
        let Self { client, workspaces, ui, vm, .. } = self;
        let records = workspaces.mark_deleted(vm, records).await?;
        temporary_vm::delete(client, vm, session, ui).await?;
        workspaces.delete_records(vm, records);
        Ok(())
    }
}
