use std::{
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use banger_api::{ApiError, Check, ErrorKind, Size, Vm, VmState};
use banger_client::{Answered, Client};
use banger_proto::{DiskUsage, GENERATION, Inspection};

use super::ping::in_ms;
use crate::{
    commands::reference::reference,
    error::CommandError,
    hints::hint_for,
    ui::{Format, Ui},
};

/// Maximum offset of a guest's clock. From a few seconds on, builds and certificate checks fail.
const CLOCK: Duration = Duration::from_secs(5);

/// Maximum answer time of a healthy agent.
const PROMPT: Duration = Duration::from_secs(1);

/// Minimum free space of a disk or of memory, in percent. Below the first the check warns, below the second it fails.
const LITTLE: u64 = 10;
const NONE: u64 = 1;

/// Check a VM's state, agent, clock, free disk space and free memory
///
/// The exit status is 1 if a check fails.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger vm health box
  banger vm health box -o json")]
pub(crate) struct Health {
    /// Id, name, or unique prefix of either
    #[arg(value_parser = reference())]
    vm: String,
    #[command(flatten)]
    format: Format,
}

impl Health {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let vm = client.vm(&self.vm).await?;
        let mut checks = vec![state(&vm)];
        if vm.state == VmState::Running {
            let asked_at = now();
            match banger_client::ping(&client, vm.name.as_str()).await {
                Ok(pong) => {
                    checks.extend(agent(&vm, &pong));
                    let seen = banger_client::inspect(&client, vm.name.as_str()).await;
                    checks.extend(guest(&vm, seen.map(|seen| seen.answer), asked_at, now()));
                }
                Err(error) => checks.push(silent(&vm, error)),
            }
        }
        Ok(ui.checks(&self.format, &checks)?)
    }
}

/// Returns the time since the Unix epoch.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn state(vm: &Vm) -> Check {
    let start = format!("start it with: banger vm start {}", vm.name);
    let fails = |message: &str, hint: String| {
        Check::fail("state", ApiError::new(ErrorKind::NotRunning, message).hint(hint))
    };
    match vm.state {
        VmState::Running => Check::pass("state", "running"),
        VmState::Starting | VmState::Stopping => {
            fails(&vm.state.to_string(), "try again when that has ended".to_owned())
        }
        VmState::Paused => fails("paused", format!("resume it with: banger vm resume {}", vm.name)),
        VmState::Created | VmState::Stopped => fails(&vm.state.to_string(), start),
        VmState::Error => {
            let why = vm.last_error.as_deref().and_then(|error| error.lines().next()).unwrap_or("unknown");
            let hint = format!("see `banger vm logs {}`, or {start}", vm.name);
            fails(&format!("error: {why}"), hint)
        }
    }
}

fn silent(vm: &Vm, error: ApiError) -> Check {
    let hint = format!("see `banger vm logs {0}`, or restart it with: banger vm restart {0}", vm.name);
    Check::fail("agent", with_hint(error, hint))
}

/// Adds `hint` to `error`, unless it has one.
fn with_hint(error: ApiError, hint: String) -> ApiError {
    if hint_for(&error).is_some() { error } else { error.hint(hint) }
}

fn agent(vm: &Vm, pong: &Answered<()>) -> [Check; 2] {
    let took = format!("answered in {:.1} ms", in_ms(pong.took));
    let answered = if pong.took <= PROMPT {
        Check::pass("agent", took)
    } else {
        let hint = "the guest or the host is very busy; see `banger vm stats`";
        Check::warn("agent", ApiError::new(ErrorKind::Timeout, took).hint(hint))
    };
    let (theirs, version) = (pong.greeting.generation, &pong.greeting.version);
    let differs = |how: &str, hint: String| {
        let message = format!("{version}, generation {theirs}, {how} than this banger's {GENERATION}");
        Check::warn("agent version", ApiError::new(ErrorKind::VersionSkew, message).hint(hint))
    };
    let generation = match theirs {
        GENERATION => Check::pass("agent version", format!("{version}, generation {theirs}, up to date")),
        ..GENERATION => {
            differs("older", format!("install this banger's agent with: banger vm restart {}", vm.name))
        }
        _ => differs("newer", "use the banger that started the VM".to_owned()),
    };
    [answered, generation]
}

/// Returns checks of what the guest reports about itself, in an answer requested at `asked` and received at `came`.
fn guest(vm: &Vm, seen: Result<Inspection, ApiError>, asked: Duration, came: Duration) -> Vec<Check> {
    let seen = match seen {
        Ok(seen) => seen,
        Err(error) => return vec![Check::warn("guest", with_hint(error, "try again".to_owned()))],
    };
    let mut checks = vec![clock(vm, Duration::from_nanos(seen.clock_ns), asked, came)];
    checks.extend(seen.disks.iter().map(|disk| room(vm, disk)));
    checks.push(memory(vm, &seen));
    checks
}

fn clock(vm: &Vm, theirs: Duration, asked: Duration, came: Duration) -> Check {
    let off = asked.saturating_sub(theirs).max(theirs.saturating_sub(came));
    match off.as_secs() {
        _ if off <= CLOCK => Check::pass("clock", "same as this host's"),
        seconds => {
            let side = if theirs > came { "ahead of" } else { "behind" };
            let error = ApiError::new(ErrorKind::Guest, format!("{seconds} s {side} this host's"));
            Check::warn("clock", error.hint(format!("correct it with: banger vm restart {}", vm.name)))
        }
    }
}

fn room(vm: &Vm, disk: &DiskUsage) -> Check {
    let hint = match disk.path.as_str() {
        "/root" => {
            format!("delete files there, or stop the VM and run `banger vm set {} --disk-size SIZE`", vm.name)
        }
        path => format!("delete files under {path}; /root is a separate disk"),
    };
    left(format!("disk {}", disk.path), ErrorKind::NoSpace, disk.available, disk.total, hint)
}

fn memory(vm: &Vm, seen: &Inspection) -> Check {
    let hint = format!("end programs, or stop the VM and run `banger vm set {} --memory SIZE`", vm.name);
    left("memory".to_owned(), ErrorKind::NoMemory, seen.memory_available, seen.memory_total, hint)
}

/// Checks that enough of `total` is available; `kind` is the error's kind if not. A guest may report any values.
fn left(name: String, kind: ErrorKind, available: u64, total: u64, hint: String) -> Check {
    let message = format!("{} of {} left", Size::bytes(available), Size::bytes(total));
    let share = u128::from(available) * 100 / u128::from(total).max(1);
    let error = |message| ApiError::new(kind, message).hint(hint);
    match u64::try_from(share).unwrap_or(u64::MAX) {
        ..NONE => Check::fail(name, error(message)),
        NONE..LITTLE => Check::warn(name, error(message)),
        _ => Check::pass(name, message),
    }
}

#[cfg(test)]
mod tests {
    use banger_api::Verdict;

    use super::*;

    fn vm(state: &str) -> Vm {
        serde_json::from_value(serde_json::json!({
            "id": "00000000000000ab", "name": "box", "state": state, "image": "i", "kernel": "k", "vcpu": 1,
            "memory": 1, "system_overlay_size": 1, "disk_size": 1, "rm": false,
            "created_at": "2026-01-01T00:00:00Z", "console": "/c", "last_error": "its VMM died\nmore",
        }))
        .unwrap()
    }

    #[test]
    fn a_vm_that_does_not_run_fails_with_what_to_do() {
        for (name, message, hint) in [
            ("stopped", "stopped", "start it with: banger vm start box"),
            ("created", "created", "start it with: banger vm start box"),
            ("paused", "paused", "resume it with: banger vm resume box"),
            (
                "error",
                "error: its VMM died",
                "see `banger vm logs box`, or start it with: banger vm start box",
            ),
        ] {
            let error = ApiError::new(ErrorKind::NotRunning, message).hint(hint);
            assert_eq!(state(&vm(name)), Check::fail("state", error));
        }
        assert_eq!(state(&vm("running")).verdict, Verdict::Pass);
    }

    #[test]
    fn a_guest_is_judged_by_its_own_figures() {
        let disk = |path: &str, available| DiskUsage { path: path.into(), total: 1000, available };
        let seen = Inspection {
            clock_ns: 100_000_000_000,
            memory_total: u64::MAX,
            memory_available: u64::MAX,
            disks: vec![disk("/", 99), disk("/root", 9)],
            ..Inspection::default()
        };
        let verdicts = |asked, came| -> Vec<_> {
            let [asked, came] = [asked, came].map(Duration::from_secs);
            guest(&vm("running"), Ok(seen.clone()), asked, came).iter().map(|check| check.verdict).collect()
        };
        let rest = [Verdict::Warn, Verdict::Fail, Verdict::Pass];
        assert_eq!(
            verdicts(90, 110),
            [&[Verdict::Pass][..], &rest].concat(),
            "a slow answer is not a clock error"
        );
        assert_eq!(verdicts(105, 105)[0], Verdict::Pass);
        assert_eq!(verdicts(106, 106)[0], Verdict::Warn);
        assert_eq!(verdicts(10, 94)[0], Verdict::Warn);
        let nothing = guest(&vm("running"), Ok(Inspection::default()), Duration::ZERO, Duration::ZERO);
        assert_eq!(nothing.last().unwrap().verdict, Verdict::Fail);
        let old = ApiError::new(ErrorKind::VersionSkew, "older").hint("restart");
        assert_eq!(
            guest(&vm("running"), Err(old.clone()), Duration::ZERO, Duration::ZERO),
            [Check::warn("guest", old)]
        );
    }
}
