use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use banger_api::{ApiError, Check, Config, CreateVm, ErrorKind, Vm};
use banger_client::{Client, Output, exec};
use banger_proto::{Exec, ExitStatus};
use tokio::time::timeout;

use crate::{
    config,
    error::CommandError,
    hints::hint_for,
    operation::watch,
    signals,
    ui::{Format, Ui},
    workspace,
};

/// Timeout for `true` in a guest, which may have no KVM.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// Check this host for what VMs need, and show how to fix problems
///
/// PASS is as it should be, WARN works but could be better, FAIL does not work. The exit status is 1 if a check
/// fails. Without options, doctor changes nothing and starts no daemon. It probes KVM again, also for the daemon,
/// which otherwise keeps its result until the next boot.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger doctor
  banger doctor --boot               boot a VM as the last check
  banger doctor -q                   print only the names of checks that do not pass")]
pub(crate) struct Doctor {
    /// First let the daemon repair what differs from its store
    #[arg(long)]
    fix: bool,
    /// Boot a VM as the last check, then delete it
    #[arg(long)]
    boot: bool,
    #[command(flatten)]
    format: Format,
}

impl Doctor {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let mut checks = check_configuration();
        checks.extend(check_git().await);
        match Client::new() {
            Err(error) => checks.push(failed_check("bangerd", error)),
            Ok(client) => {
                if self.fix {
                    checks.extend(repair(&client).await);
                }
                // Dropping this ends the process that checks.
                let host = signals::cancellable().run(client.doctor(config_variables())).await?;
                checks.extend(host.unwrap_or_else(|error| vec![failed_check("bangerd", error)]));
                checks
                    .push(check_daemon(&client).await.unwrap_or_else(|error| failed_check("daemon", error)));
                if self.boot {
                    checks.push(check_boot(&client, ui).await?);
                }
            }
        }
        Ok(ui.checks(&self.format, &checks)?)
    }
}

/// Returns an error as a failed check.
fn failed_check(name: &str, error: ApiError) -> Check {
    let hint = match &error.log {
        Some(log) => format!("see {log}"),
        None => "see `banger daemon logs`".to_owned(),
    };
    Check::fail(name, if hint_for(&error).is_some() { error } else { error.hint(hint) })
}

/// Checks the configuration, and shows the defaults of new VMs.
fn check_configuration() -> Vec<Check> {
    match config::load() {
        Ok(config) => vec![
            Check::pass("configuration", config_sources(&config)),
            Check::pass("VM defaults", vm_defaults(&config)),
        ],
        Err(error) => vec![failed_check("configuration", error)],
    }
}

/// Checks the program that sends repositories to VMs, and its confinement while it reads a guest's data. Without it,
/// everything else works.
async fn check_git() -> Vec<Check> {
    let process = "git process";
    match workspace::check_git().await {
        Err(error) => vec![Check::warn("git", error)],
        Ok((version, confinement)) => vec![
            Check::pass("git", format!("git {version}")),
            match confinement {
                Ok(confinement) if confinement.is_complete => Check::pass(process, confinement.message),
                Ok(confinement) => {
                    Check::warn(process, ApiError::new(ErrorKind::NotPermitted, confinement.message))
                }
                Err(error) => {
                    let hint = "put a git that is not a wrapper first in PATH, such as /usr/bin/git";
                    Check::fail(process, error.hint(hint))
                }
            },
        ],
    }
}

/// Returns the configured values as environment variables. The daemon's program then checks the host for what a
/// command in this directory would use; it does not read the project's configuration itself.
fn config_variables() -> Vec<(&'static str, String)> {
    let set = crate::config::effective_keys().into_iter().filter(|key| key.short.is_some());
    set.filter_map(|key| Some((key.variable?, key.value))).collect()
}

/// Returns the sources that set a value.
fn config_sources(config: &Config) -> String {
    let mut sources: Vec<_> =
        config.entries().into_iter().map(|key| key.origin).filter(|source| source != "built in").collect();
    for source in &mut sources {
        // `config show` shows the line numbers.
        let end = source.rfind(':').unwrap_or(source.len());
        source.truncate(end);
    }
    sources.sort();
    sources.dedup();
    if sources.is_empty() {
        "nothing is set; the built-in values apply".to_owned()
    } else {
        sources.join(", ")
    }
}

/// Returns the defaults of new VMs, with the source of each that is not built in.
fn vm_defaults(config: &Config) -> String {
    let vm_keys = config.entries().into_iter().filter(|key| key.variable.is_some());
    let values = vm_keys.map(|key| {
        let origin = key.short.map(|origin| format!(" ({origin})")).unwrap_or_default();
        format!("{} {}{origin}", key.name, key.value)
    });
    values.collect::<Vec<_>>().join(", ")
}

/// Lets the daemon repair what differs from its store; returns what it repaired.
async fn repair(client: &Client) -> Vec<Check> {
    match client.repair().await {
        Err(error) => vec![failed_check("repair", error)],
        Ok(repairs) if repairs.is_empty() => vec![Check::pass("repair", "nothing to repair")],
        Ok(repairs) => repairs.into_iter().map(|repair| Check::pass("repair", repair)).collect(),
    }
}

/// Checks whether the daemon runs, and whether it is the current build.
async fn check_daemon(client: &Client) -> Result<Check, ApiError> {
    let Some(status) = client.daemon_status().await? else {
        return Ok(Check::pass("daemon", "not running; it starts automatically"));
    };
    let message =
        format!("bangerd {} is running, process {}, {} VMs", status.version, status.pid, status.running_vms);
    if client.is_current(&status)? {
        return Ok(Check::pass("daemon", message));
    }
    let message = format!("{message}; its program has been replaced since it started");
    let error = ApiError::new(ErrorKind::VersionSkew, message);
    Ok(Check::warn(
        "daemon",
        error.hint("the next command restarts it, or run `banger daemon restart` now; VMs keep running"),
    ))
}

/// Creates a VM, runs a command in it and deletes it.
async fn check_boot(client: &Client, ui: &Ui) -> Result<Check, CommandError> {
    let start = Instant::now();
    let booted = async {
        let request = config::fill_defaults(&config::load()?, CreateVm { rm: true, ..CreateVm::default() })?;
        let phase = signals::cancellable();
        let mut session = phase.run(client.run_vm(&request)).await??;
        let (vm, _) = watch::<Vm>(client, &mut session, ui).await?;
        let result = phase.run(run_true(client, &vm)).await;
        // If a signal stops this, bangerd deletes the VM once `session` is closed.
        let deleted = async { client.delete_vm(vm.id.as_str(), true).await?.result::<()>(|_| {}).await };
        signals::cleanup().run(deleted).await??;
        result??;
        Ok::<_, CommandError>(vm)
    };
    match booted.await {
        Ok(vm) => {
            let vmm = vm.vmm.map(|vmm| format!(" with {vmm}")).unwrap_or_default();
            let seconds = start.elapsed().as_secs_f64();
            Ok(Check::pass(
                "boot",
                format!("a VM booted{vmm}, ran a command and was deleted in {seconds:.1} s"),
            ))
        }
        Err(CommandError { error: Some(error), .. }) => Ok(failed_check("boot", error)),
        // Interrupted, and already reported.
        Err(reported) => Err(reported),
    }
}

async fn run_true(client: &Client, vm: &Vm) -> Result<(), ApiError> {
    let command = Exec { argv: vec!["true".to_owned()], ..Exec::default() };
    let (_input, mut output) = exec(client, vm.id.as_str(), command).await?;
    let exited = async {
        loop {
            if let Output::Exited(status) = output.next().await? {
                return Ok::<_, ApiError>(status);
            }
        }
    };
    match timeout(COMMAND_TIMEOUT, exited).await {
        Ok(Ok(ExitStatus::Code(0))) => Ok(()),
        Ok(Ok(status)) => {
            let message = format!("`true` in the VM exited with status {}", status.shell_code());
            Err(ApiError::new(ErrorKind::Guest, message))
        }
        Ok(Err(error)) => Err(error),
        Err(_) => {
            let message = format!("`true` in the VM has not exited in {} s", COMMAND_TIMEOUT.as_secs());
            Err(ApiError::new(ErrorKind::Timeout, message))
        }
    }
}
