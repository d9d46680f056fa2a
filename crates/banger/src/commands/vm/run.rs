use std::{path::PathBuf, process::ExitCode};

use banger_api::{
    ApiError, Config, CreateVm, ErrorKind, Forward, Vm,
    config::{FileSync, PROJECT_FILE},
};
use banger_client::{Client, Events};
use banger_tools::Plan;

use super::{
    entry,
    hardware::Hardware,
    workspace::selection::{PreparedContent, Selection},
};
use crate::{
    commands::variables::{variable, variables},
    config, consent,
    error::CommandError,
    file_sync,
    forward::Forwards,
    operation::watch,
    session::{self, GuestCommand},
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
/// It asks you before it opens ports of this host that the repository requests.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger vm run .
  banger vm run --rm . -- make test
  banger vm run -p 3000 . -- npm run dev
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
    /// Forward this port of the VM to 127.0.0.1 on the host during the session
    #[arg(short, long, value_name = "[HOST:]GUEST")]
    port: Vec<Forward>,
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
        let in_session = |failure: CommandError| match failure.error {
            Some(error) => CommandError::in_session(error),
            None => failure,
        };
        self.create_and_run(ui).await.map_err(in_session)
    }

    async fn create_and_run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let workspaces = Workspaces::new(&client, ui);
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
        // In the background, nothing is opened.
        if let Some(prepared) = prepared.as_ref().filter(|_| !self.detach) {
            let (root, state) = (prepared.root(), &client.dirs().state);
            plan.ports = consent::permitted_ports(&config, root, &plan.ports, &self.port, state, ui)?;
        }
        // Notes about other files may be meant for other programs; this file is banger's own.
        let own_notes = plan.notes.iter().filter(|note| note.location.file == PROJECT_FILE);
        own_notes.for_each(|note| ui.warning(note));
        // The daemon must not delete a VM that may have unsaved work.
        let rm = self.rm && (prepared.is_none() || self.discard);
        let request_start = now_ns();
        let hardware = self.hardware.request(&config, &client, ui).await;
        let request = CreateVm { rm, detach: self.detach, ..hardware };
        let mut events = client.run_vm(&request).await?;
        timing.record("connect to bangerd", request_start);
        let (vm, spans) = watch::<Vm>(&client, &mut events, ui).await?;
        timing.add(spans);
        let setup = GuestSetup { files, prepared, plan: &plan, variables: &variables };
        if let Err(error) = self.set_up_guest(&workspaces, ui, &vm, setup, &mut timing).await {
            delete(&client, &vm, events, ui).await;
            return Err(error);
        }
        let ports = self.ports(&plan);
        if self.detach {
            print_port_hints(ui, &vm, &ports);
            ui.line(&vm.name)?;
            if self.timing {
                timing.print(ui, now_ns());
            }
            return Ok(ExitCode::SUCCESS);
        }
        let forwards = Forwards::listen(&client, ui, &vm, &ports).await;
        let project_env = plan.env.into_iter().map(|variable| (variable.name.to_string(), variable.value));
        let env = project_env.chain(variables).collect();
        let start = now_ns();
        let session = async {
            let guest_command = GuestCommand { env, ..self.guest_command(&client, &vm).await? };
            session::run(&client, vm.id.as_str(), guest_command).await
        };
        let session = forwards.serve_during(session).await;
        drop(forwards);
        if session.is_ok() {
            timing.record("session", start);
        }
        let start = now_ns();
        let keep_vm = !self.rm || !self.discard && !save_work(&workspaces, &vm, ui).await;
        if !keep_vm {
            delete(&client, &vm, events, ui).await;
            workspaces.delete_records(&vm);
            timing.record("delete", start);
        }
        let end = session?;
        if self.timing {
            timing.print(ui, end.first_byte_ns);
        }
        if keep_vm {
            ui.note(format_args!("VM {0} is kept; delete it with: banger vm delete {0}", vm.name));
        }
        Ok(end.status.shell_code().into())
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

    /// Copies files and the repository into `vm`, and starts the repository's tools and setup commands.
    async fn set_up_guest(
        &self,
        workspaces: &Workspaces<'_>,
        ui: &Ui,
        vm: &Vm,
        setup: GuestSetup<'_>,
        timing: &mut Timing,
    ) -> Result<(), CommandError> {
        let GuestSetup { files, prepared, plan, variables } = setup;
        file_sync::copy_files(workspaces.client(), ui, vm, files).await;
        let Some(prepared) = prepared else { return Ok(()) };
        let start = now_ns();
        self.selection.send(workspaces, ui, vm, prepared).await?;
        timing.record("send the repository", start);
        if !self.no_tools {
            let dir = &self.selection.guest_path;
            let job = Job { plan, dir, env: variables, wait: self.wait_tools };
            tools::run_job(workspaces.client(), ui, vm, job).await;
        }
        Ok(())
    }

    /// Returns the ports that `plan` and the flags request, without duplicates.
    fn ports(&self, plan: &Plan) -> Vec<Forward> {
        let mut ports = Vec::new();
        let planned = plan.ports.iter().map(|port| Forward { host: port.host, guest: port.guest });
        for port in planned.chain(self.port.iter().copied()) {
            if !ports.contains(&port) {
                ports.push(port);
            }
        }
        ports
    }
}

/// Content of a new VM that is set up before its command runs.
struct GuestSetup<'a> {
    files: Vec<FileSync>,
    prepared: Option<PreparedContent>,
    plan: &'a Plan,
    /// The user's own variables, for setup commands.
    variables: &'a [(String, String)],
}

/// Prints how to forward `ports` of a VM that runs without a session.
fn print_port_hints(ui: &Ui, vm: &Vm, ports: &[Forward]) {
    if ports.is_empty() {
        return;
    }
    let options: String =
        ports.iter().map(|port| format!(" -L {}:localhost:{}", port.host, port.guest)).collect();
    ui.note(format_args!("forward its ports to this host with `banger vm ssh {} -N{options}`", vm.name));
}

/// Pulls the work that exists only in `vm`. Returns false if that fails and the VM must be kept.
async fn save_work(workspaces: &Workspaces<'_>, vm: &Vm, ui: &Ui) -> bool {
    let Err(failure) = workspaces.save_work(vm).await else { return true };
    if let Some(error) = failure.error {
        ui.error(&error);
    }
    ui.warning(format_args!("the work in VM {} could not be saved", vm.name));
    false
}

/// Deletes a VM after its session. If this is interrupted too, the daemon deletes it once `session` is closed.
async fn delete(client: &Client, vm: &Vm, session: Events, ui: &Ui) {
    let deleted = async { client.delete_vm(vm.id.as_str(), true).await?.result::<()>(|_| {}).await };
    match deleted.await {
        Ok(_) => {}
        Err(error) if error.kind == ErrorKind::NotFound => {}
        Err(error) => ui.warning(format_args!("VM {} could not be deleted: {error}", vm.name)),
    }
    drop(session);
}
