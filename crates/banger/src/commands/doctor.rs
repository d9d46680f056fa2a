use std::{process::ExitCode, time::Instant};

use banger_api::{ApiError, Check, Config, CreateVm, ErrorKind, Vm};
use banger_client::{Client, Output, exec};
use banger_proto::{Exec, ExitStatus};

use crate::operation::watch;
use crate::{
    config,
    error::CommandError,
    hints::hint_for,
    ui::{Format, Ui},
};

/// Look at what VMs need of this host, and tell what to do about what is missing
///
/// PASS is as it should be, WARN works but could be better, FAIL does not work; the exit status is 1 with a FAIL. Nothing
/// is changed, and no daemon is started, unless asked for. KVM is probed anew, also for the daemon, which otherwise keeps
/// its verdict until the next boot.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger doctor
  banger doctor --boot               boots a VM as the last check
  banger doctor -q                   only the names of what does not pass")]
pub(crate) struct Doctor {
    /// First let the daemon bring what is there in line with its store
    #[arg(long)]
    fix: bool,
    /// Boot a VM as the last check, and delete it
    #[arg(long)]
    boot: bool,
    #[command(flatten)]
    format: Format,
}

impl Doctor {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let mut checks = configuration();
        match Client::new() {
            Err(error) => checks.push(failed("bangerd", error)),
            Ok(client) => {
                if self.fix {
                    checks.extend(repair(&client).await);
                }
                let host = client.doctor(configured()).await;
                checks.extend(host.unwrap_or_else(|error| vec![failed("bangerd", error)]));
                checks.push(daemon(&client).await.unwrap_or_else(|error| failed("daemon", error)));
                if self.boot {
                    checks.push(boot(&client, ui).await?);
                }
            }
        }
        Ok(ui.checks(&self.format, &checks)?)
    }
}

/// An error as a check that it fails.
fn failed(name: &str, error: ApiError) -> Check {
    let more = match &error.log {
        Some(log) => format!("see {log}"),
        None => "`banger daemon logs` may tell more".to_owned(),
    };
    Check::fail(name, if hint_for(&error).is_some() { error } else { error.hint(more) })
}

/// Whether the configuration can be used, and what a VM gets by it.
fn configuration() -> Vec<Check> {
    match config::load() {
        Ok(config) => vec![
            Check::pass("configuration", sources(&config)),
            Check::pass("VM defaults", defaults(&config)),
        ],
        Err(error) => vec![failed("configuration", error)],
    }
}

/// What is configured here and has a variable, as that: the host is looked at for what a command here would ask for,
/// and the daemon's program knows nothing of a project.
fn configured() -> Vec<(&'static str, String)> {
    let set = crate::config::shown().into_iter().filter(|key| key.short.is_some());
    set.filter_map(|key| Some((key.variable?, key.value))).collect()
}

/// Which layers say anything.
fn sources(config: &Config) -> String {
    let mut places: Vec<_> =
        config.shown().into_iter().map(|key| key.origin).filter(|place| place != "built in").collect();
    for place in &mut places {
        // Which line is for `config show` to tell.
        let end = place.rfind(':').unwrap_or(place.len());
        place.truncate(end);
    }
    places.sort();
    places.dedup();
    if places.is_empty() { "nothing is set: all is built in".to_owned() } else { places.join(", ") }
}

/// What a VM gets that its command could say, with where that comes from unless it is built in.
fn defaults(config: &Config) -> String {
    let of_vms = config.shown().into_iter().filter(|key| key.variable.is_some());
    let told = of_vms.map(|key| {
        let origin = key.short.map(|origin| format!(" ({origin})")).unwrap_or_default();
        format!("{} {}{origin}", key.name, key.value)
    });
    told.collect::<Vec<_>>().join(", ")
}

/// What the daemon found amiss, and mended.
async fn repair(client: &Client) -> Vec<Check> {
    match client.repair().await {
        Err(error) => vec![failed("repair", error)],
        Ok(amiss) if amiss.is_empty() => vec![Check::pass("repair", "nothing was amiss")],
        Ok(amiss) => amiss.into_iter().map(|found| Check::pass("repair", found)).collect(),
    }
}

/// Whether the daemon runs, and is the one that would be started.
async fn daemon(client: &Client) -> Result<Check, ApiError> {
    let Some(status) = client.daemon_status().await? else {
        return Ok(Check::pass("daemon", "does not run; it starts by itself"));
    };
    let message =
        format!("bangerd {} runs, process {}, {} VMs", status.version, status.pid, status.running_vms);
    if client.is_current(&status)? {
        return Ok(Check::pass("daemon", message));
    }
    let message = format!("{message}; its program has been replaced since");
    let error = ApiError::new(ErrorKind::VersionSkew, message);
    Ok(Check::warn(
        "daemon",
        error.hint("the next command replaces it, or now: banger daemon restart; VMs run on"),
    ))
}

/// A VM from its making to its deletion.
async fn boot(client: &Client, ui: &Ui) -> Result<Check, CommandError> {
    let began = Instant::now();
    let booted = async {
        let request = config::fill(&config::load()?, CreateVm { rm: true, ..CreateVm::default() });
        let mut session = client.run_vm(&request).await?;
        let (vm, _) = watch::<Vm>(client, &mut session, ui).await?;
        let ran = run_true(client, &vm).await;
        client.delete_vm(vm.id.as_str(), true).await?.result::<()>(|_| {}).await?;
        ran?;
        Ok::<_, CommandError>(vm)
    };
    match booted.await {
        Ok(vm) => {
            let vmm = vm.vmm.map(|vmm| format!(" with {vmm}")).unwrap_or_default();
            let took = began.elapsed().as_secs_f64();
            Ok(Check::pass("boot", format!("a VM booted{vmm}, ran a command and was deleted in {took:.1} s")))
        }
        Err(CommandError { error: Some(error), .. }) => Ok(failed("boot", error)),
        // Interrupted, and told so.
        Err(told) => Err(told),
    }
}

async fn run_true(client: &Client, vm: &Vm) -> Result<(), ApiError> {
    let command = Exec { argv: vec!["true".to_owned()], ..Exec::default() };
    let (_input, mut output) = exec(client, vm.id.as_str(), command).await?;
    loop {
        match output.next().await? {
            Output::Exited(ExitStatus::Code(0)) => return Ok(()),
            Output::Exited(status) => {
                let message = format!("`true` in the VM ended with status {}", status.shell_code());
                return Err(ApiError::new(ErrorKind::Guest, message));
            }
            _ => {}
        }
    }
}
