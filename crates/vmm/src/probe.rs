//! The KVM probe: determines whether this host runs a guest at full speed.
//!
//! The guest runs in a child process, because on a host with broken KVM it may hang so that no signal ends it. The
//! probe measures CPU time of the guest and the child: on a busy host both may take seconds of wall-clock time and
//! still be fine. A guest that fails is retried in a new process before KVM is reported as broken.

use std::{
    io::Write,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    time::Duration,
};

use banger_sys::{
    confine::{Confinement, confine},
    kvm::{KvmOutcome, probe},
    process_cpu_time,
};
use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::{
    io::AsyncReadExt,
    process::{Child, Command},
    time::sleep,
};

use crate::{
    confinement,
    verdict::{KvmProbe, KvmVerdict},
    verdict_cache::{self, Conditions},
};

/// Maximum CPU time of the guest. It needs 0.1 ms with real KVM, and about a thousand times that with emulated KVM.
const MAX_CPU_TIME: Duration = Duration::from_millis(50);

/// Total CPU time of slow guests after which the fastest decides. On a nested host, a guest's CPU time includes other
/// work of the outer host.
const MAX_TOTAL_CPU_TIME: Duration = Duration::from_millis(500);

/// Limits of the child process.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// CPU time after which the guest counts as hung. The child needs about 10 ms, and at most [`MAX_TOTAL_CPU_TIME`].
    cpu: Duration,
    /// Wall-clock time after which there is no verdict: the host is too busy, or the child hangs in the kernel.
    wall: Duration,
}

const LIMITS: Limits = Limits { cpu: Duration::from_secs(2), wall: Duration::from_secs(60) };

/// Interval for reading the child's CPU time; the kernel sends no notification.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// CPU seconds after which the kernel ends a child whose parent is gone.
const ORPHAN_CPU_SECONDS: u64 = 10;

/// Source of the KVM verdict.
#[derive(Debug, Clone)]
pub enum KvmSource {
    /// A probe in a child process.
    Probe {
        /// The program and its arguments; its process calls [`probe_main`].
        command: Vec<PathBuf>,
        /// File that caches the verdict until the host reboots.
        cache_file: Option<PathBuf>,
        /// True to probe despite a cached verdict. The new verdict replaces it.
        reprobe: bool,
    },
    /// A fixed verdict.
    Fixed(KvmProbe),
}

/// Returns the verdict of `source`.
pub(crate) async fn verdict(source: &KvmSource) -> KvmProbe {
    confined_verdict(source, &confinement::probe()).await
}

async fn confined_verdict(source: &KvmSource, confinement: &Confinement) -> KvmProbe {
    let (command, file, reprobe) = match source {
        KvmSource::Probe { command, cache_file, reprobe } => (command, cache_file.as_deref(), *reprobe),
        KvmSource::Fixed(verdict) => return verdict.clone(),
    };
    // Read before the probe: if the conditions change meanwhile, the verdict is not valid for the new ones.
    let conditions = command.first().and_then(|program| Conditions::current(program));
    let cache = file.zip(conditions);
    if let Some((file, conditions)) = &cache
        && !reprobe
        && let Some(verdict) = verdict_cache::read(file, conditions)
    {
        return verdict;
    }
    let verdict = run_with_retry(command, LIMITS, confinement).await;
    if let Some((file, conditions)) = cache
        && matches!(verdict.verdict, KvmVerdict::Usable | KvmVerdict::Broken)
    {
        verdict_cache::write(file, conditions, &verdict);
    }
    verdict
}

/// Main function of the child: runs the guest and prints the verdict as a line of JSON.
pub fn probe_main() -> ExitCode {
    // Fails only if the limit is already lower.
    let _ = setrlimit(
        Resource::Cpu,
        Rlimit { current: Some(ORPHAN_CPU_SECONDS), maximum: Some(ORPHAN_CPU_SECONDS) },
    );
    let result = judge(fastest(), Path::new("/sys/module/kvm_pvm").exists());
    let line = serde_json::to_string(&result).unwrap_or_default();
    match writeln!(std::io::stdout(), "{line}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Runs the guest until it is fast once, or has been slow for [`MAX_TOTAL_CPU_TIME`] in total.
fn fastest() -> KvmOutcome {
    let (mut fastest, mut used) = (Duration::MAX, Duration::ZERO);
    loop {
        match probe() {
            KvmOutcome::Ran(took) if took > MAX_CPU_TIME && used < MAX_TOTAL_CPU_TIME => {
                fastest = fastest.min(took);
                used += took;
            }
            KvmOutcome::Ran(took) => return KvmOutcome::Ran(took.min(fastest)),
            outcome => return outcome,
        }
    }
}

fn judge(outcome: KvmOutcome, emulated: bool) -> KvmProbe {
    use KvmVerdict::{Broken, Unavailable, Usable};
    let emulated = if emulated { " (the host's KVM is kvm_pvm, an emulation)" } else { "" };
    let (verdict, reason) = match outcome {
        KvmOutcome::Ran(took) if took <= MAX_CPU_TIME => {
            (Usable, format!("a guest ran in {:.1} ms of CPU time", took.as_secs_f64() * 1e3))
        }
        KvmOutcome::Ran(took) => {
            let took = took.as_secs_f64() * 1e3;
            (Broken, format!("a guest that should use 0.1 ms of CPU time used {took:.0} ms{emulated}"))
        }
        KvmOutcome::CannotOpen(error) => (Unavailable, cannot_open(&error)),
        KvmOutcome::CannotSetUp(error) => (Unavailable, format!("KVM cannot create a VM: {error}")),
        KvmOutcome::Died(how) => (Broken, format!("a guest of a few instructions died: {how}{emulated}")),
        other => (Broken, format!("{other:?}")),
    };
    KvmProbe::new(verdict, reason)
}

fn cannot_open(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            "there is no /dev/kvm: turn virtualisation on in the firmware, or nested \
                                         virtualisation in the cloud"
                .to_owned()
        }
        std::io::ErrorKind::PermissionDenied => {
            "no permission to open /dev/kvm: join its group (usually `sudo usermod \
                                                 -aG kvm $USER`, then log in again)"
                .to_owned()
        }
        _ => format!("/dev/kvm cannot be opened: {error}"),
    }
}

/// Runs the probe, and again if the first verdict is that KVM is broken.
async fn run_with_retry(command: &[PathBuf], limits: Limits, confinement: &Confinement) -> KvmProbe {
    let first = run(command, limits, confinement).await;
    if first.verdict != KvmVerdict::Broken {
        return first;
    }
    let mut second = run(command, limits, confinement).await;
    if second.verdict == KvmVerdict::Broken {
        second.reason.push_str(", twice");
    }
    second
}

/// Runs `command`, whose process calls [`probe_main`]. Returns its verdict, or one derived from its exit status.
async fn run(command: &[PathBuf], limits: Limits, confinement: &Confinement) -> KvmProbe {
    let unknown = |why: String| KvmProbe::new(KvmVerdict::Unknown, why);
    let [program, args @ ..] = command else {
        return unknown("there is no command for the probe".to_owned());
    };
    let mut command = std::process::Command::new(program);
    command.args(args).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let confined = confine(&mut command, confinement, Vec::new());
    // A child that hangs in the kernel stays until the kernel ends it; nothing waits for it.
    let child = confined.and_then(|()| Command::from(command).kill_on_drop(true).spawn());
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return unknown(format!("cannot run the probe {}: {error}", program.display())),
    };
    let pid = child.id();
    tokio::select! {
        answer = answer(&mut child) => answer
            .unwrap_or_else(|error| unknown(format!("cannot read the probe's output: {error}"))),
        () = wait_for_cpu_time(pid, limits.cpu) => {
            let limit = limits.cpu.as_secs_f64();
            let reason = format!("a guest of a few instructions did not end in {limit} s of CPU time");
            KvmProbe::new(KvmVerdict::Broken, reason)
        }
        () = sleep(limits.wall) => unknown(format!(
            "the probe did not end within {} s and has used {} ms of CPU time; the host is too busy, or KVM hangs",
            limits.wall.as_secs(),
            cpu_time(pid).as_millis(),
        )),
    }
}

/// Returns the verdict that the child prints, or one derived from its exit status.
async fn answer(child: &mut Child) -> std::io::Result<KvmProbe> {
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(4096).read_to_end(&mut output).await?;
    }
    if let Ok(verdict) = serde_json::from_slice(&output) {
        return Ok(verdict);
    }
    let status = child.wait().await?;
    Ok(match status.signal() {
        Some(signal) => {
            let reason = format!("signal {signal} killed the process of a guest of a few instructions");
            KvmProbe::new(KvmVerdict::Broken, reason)
        }
        None => KvmProbe::new(KvmVerdict::Unknown, format!("the probe ended without a verdict: {status}")),
    })
}

/// Waits until process `pid` has used `limit` of CPU time.
async fn wait_for_cpu_time(pid: Option<u32>, limit: Duration) {
    while cpu_time(pid) < limit {
        sleep(POLL_INTERVAL.min(limit)).await;
    }
}

/// Returns the CPU time of process `pid`, or zero if it is gone.
fn cpu_time(pid: Option<u32>) -> Duration {
    pid.and_then(|pid| process_cpu_time(pid).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use KvmVerdict::{Broken, Unavailable, Unknown, Usable};
    use banger_sys::confine::{Access, SystemCalls};
    use std::fs;

    #[test]
    fn only_a_fast_guest_makes_kvm_usable() {
        let after = |ms| judge(KvmOutcome::Ran(Duration::from_millis(ms)), true);
        assert_eq!(after(1).verdict, Usable);
        let slow = after(400);
        assert!(slow.verdict == Broken && slow.reason.contains("kvm_pvm"), "{slow}");
        let denied = judge(KvmOutcome::CannotOpen(std::io::ErrorKind::PermissionDenied.into()), false);
        assert!(denied.verdict == Unavailable && denied.reason.contains("group"), "{denied}");
        let busy = judge(KvmOutcome::CannotSetUp(std::io::ErrorKind::ResourceBusy.into()), false);
        assert_eq!(busy.verdict, Unavailable);
        assert_eq!(judge(KvmOutcome::Died("internal error".into()), false).verdict, Broken);
    }

    /// Returns the command of a shell script as probe, and a file to which each run appends a line.
    fn script(dir: &Path, script: &str) -> (Vec<PathBuf>, PathBuf) {
        let runs = dir.join("runs");
        let script = format!("echo run >> {}; {script}", runs.display());
        (["/bin/sh".into(), "-c".into(), script.into()].to_vec(), runs)
    }

    /// Returns what a shell script in `dir` may do.
    fn script_confinement(dir: &Path) -> Confinement {
        let confinement = Confinement { system_calls: SystemCalls::Processes, ..confinement::probe() };
        confinement.allow(dir, Access::All)
    }

    /// Returns the verdict of a shell script as probe, and how often it ran.
    async fn run_script(text: &str, limits: Limits) -> (KvmProbe, usize) {
        let dir = tempfile::tempdir().unwrap();
        let (command, runs) = script(dir.path(), text);
        let verdict = run_with_retry(&command, limits, &script_confinement(dir.path())).await;
        (verdict, fs::read_to_string(runs).unwrap_or_default().lines().count())
    }

    const USABLE: &str = r#"echo '{"verdict":"usable","reason":"fine"}'"#;
    const BROKEN: &str = r#"echo '{"verdict":"broken","reason":"slow"}'"#;

    #[tokio::test]
    async fn a_probe_that_waits_for_cpu_time_is_accepted() {
        let limits = Limits { cpu: Duration::from_millis(200), ..LIMITS };
        let (verdict, runs) = run_script(&format!("sleep 0.5; {USABLE}"), limits).await;
        assert_eq!((verdict.verdict, runs), (Usable, 1));
    }

    #[tokio::test]
    async fn a_probe_that_uses_too_much_cpu_time_is_killed_and_retried() {
        let limits = Limits { cpu: Duration::from_millis(50), ..LIMITS };
        let (verdict, runs) = run_script("while :; do :; done", limits).await;
        assert_eq!((verdict.verdict, runs), (Broken, 2));
        assert!(verdict.reason.contains("0.05 s of CPU time, twice"), "{verdict}");
    }

    #[tokio::test]
    async fn a_probe_that_uses_no_cpu_time_gives_no_verdict() {
        let limits = Limits { wall: Duration::from_millis(50), ..LIMITS };
        let (verdict, _) = run_script("exec sleep 1000", limits).await;
        assert!(verdict.verdict == Unknown && verdict.reason.contains("too busy"), "{verdict}");
    }

    #[tokio::test]
    async fn kvm_is_broken_only_after_two_failed_probes() {
        assert_eq!(run_script(BROKEN, LIMITS).await.1, 2);
        let once = format!("if [ $(wc -l < $0) = 1 ]; then {BROKEN}; else {USABLE}; fi");
        let dir = tempfile::tempdir().unwrap();
        let (mut command, runs) = script(dir.path(), &once);
        command.push(runs.clone());
        let verdict = run_with_retry(&command, LIMITS, &script_confinement(dir.path())).await;
        assert_eq!(verdict.verdict, Usable);
        assert_eq!(fs::read_to_string(runs).unwrap().lines().count(), 2);
        let (killed, runs) = run_script("kill -9 $$", LIMITS).await;
        assert_eq!((killed.verdict, runs), (Broken, 2));
    }

    #[tokio::test]
    async fn a_probe_without_valid_output_gives_no_verdict() {
        for command in ["/bin/true", "/nonexistent"] {
            let verdict = run_with_retry(&[command.into()], LIMITS, &confinement::probe()).await;
            assert_eq!(verdict.verdict, Unknown);
        }
        let (denied, runs) = run_script(r#"echo '{"verdict":"unavailable","reason":"group"}'"#, LIMITS).await;
        assert_eq!((denied.verdict, runs), (Unavailable, 1));
    }

    #[tokio::test]
    async fn a_verdict_is_cached_and_replaced_on_request() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("kvm.json");
        let (command, runs) = script(dir.path(), BROKEN);
        let probe =
            |reprobe| KvmSource::Probe { command: command.clone(), cache_file: Some(file.clone()), reprobe };
        let confinement = script_confinement(dir.path());
        let verdict = async |source: KvmSource| confined_verdict(&source, &confinement).await;
        let count = || fs::read_to_string(&runs).unwrap().lines().count();
        if fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
            // Without a device there are no conditions to cache a verdict for.
            verdict(probe(false)).await;
            assert!(!file.exists());
            return;
        }
        let first = verdict(probe(false)).await;
        assert_eq!((verdict(probe(false)).await, count()), (first.clone(), 2));
        assert_eq!((verdict(probe(true)).await, count()), (first, 4));
        fs::write(&file, "garbage").unwrap();
        verdict(probe(false)).await;
        assert_eq!(count(), 6);
    }
}
