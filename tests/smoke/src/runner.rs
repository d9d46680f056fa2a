//! The main program of the scenarios: selects them, runs slow ones first, and prints each result when it ends.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a test program reports to a person

use std::{
    any::Any,
    collections::VecDeque,
    fmt,
    num::NonZero,
    process::ExitCode,
    str::FromStr,
    sync::{
        Mutex, OnceLock, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{Host, shared};

/// A function that uses banger as a person would, and its metadata.
#[derive(Debug)]
pub struct Scenario {
    /// The path of its module.
    pub module: &'static str,
    /// The function's name.
    pub name: &'static str,
    /// The function.
    pub run: fn() -> Result<()>,
    /// Its tiers, and whether it is slow.
    pub marks: &'static [Mark],
}

inventory::collect!(Scenario);

/// An argument of `#[scenario(...)]`: a tier, or that the scenario is slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Runs on the machine itself, with its VMM.
    Here,
    /// Runs in the lab, with Firecracker on KVM.
    Lab,
    /// Runs in the lab, with Firecracker on KVM, on request only: it tests the same on each VMM.
    LabMore,
    /// Runs in the lab, with QEMU on KVM.
    LabQemu,
    /// Takes several times as long as most scenarios, and so starts first.
    Slow,
}

impl Mark {
    const ALL: [Self; 5] = [Self::Here, Self::Lab, Self::LabMore, Self::LabQemu, Self::Slow];

    fn name(self) -> &'static str {
        match self {
            Self::Here => "here",
            Self::Lab => "lab",
            Self::LabMore => "lab-more",
            Self::LabQemu => "lab-qemu",
            Self::Slow => "slow",
        }
    }
}

impl FromStr for Mark {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mark = Self::ALL.into_iter().find(|mark| mark.name() == text && *mark != Self::Slow);
        mark.with_context(|| format!("there is no tier `{text}`: here, lab, lab-more or lab-qemu"))
    }
}

impl Scenario {
    /// `FILE::FUNCTION`.
    fn path(&self) -> String {
        let module = self.module.split_once("::").map_or(self.module, |(_, module)| module);
        format!("{module}::{}", self.name)
    }

    fn has_mark(&self, mark: Mark) -> bool {
        self.marks.contains(&mark)
    }
}

/// Timeout for a scenario. The slowest takes a tenth of it.
const TIMEOUT: Duration = Duration::from_secs(20 * 60);

static TIER: OnceLock<Mark> = OnceLock::new();

/// Returns whether this run is in the lab, where each VM takes many times as long to boot.
pub fn in_lab() -> bool {
    TIER.get().is_some_and(|tier| *tier != Mark::Here)
}

const HELP: &str = "\
Usage: scenarios [OPTIONS] [NAME]...

Runs the scenarios whose names contain a NAME; by default all of the tier.

Options:
  --tier TIER        here (default), lab or lab-more (Firecracker on KVM), or lab-qemu (QEMU on KVM)
  --exact            matches whole names only
  --list             prints the names, with `slow` after those that start first, and exits
  --test-threads N   how many run at a time [default: one for each processor]
  --expect VMM       fails at once unless VMs run with this: firecracker/kvm, qemu/kvm or qemu/tcg
";

#[derive(Debug)]
struct Options {
    tier: Mark,
    exact: bool,
    list: bool,
    help: bool,
    threads: usize,
    expected: Option<String>,
    names: Vec<String>,
}

impl Options {
    fn parse(words: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            tier: Mark::Here,
            exact: false,
            list: false,
            help: false,
            threads: thread::available_parallelism().map_or(1, NonZero::get),
            expected: None,
            names: Vec::new(),
        };
        // Accepts both `--tier lab` and `--tier=lab`.
        let mut words = words.flat_map(|word| match word.split_once('=') {
            Some((option, value)) if word.starts_with("--") => vec![option.to_owned(), value.to_owned()],
            _ => vec![word],
        });
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word} needs a value"));
            match word.as_str() {
                "--exact" => options.exact = true,
                "--list" => options.list = true,
                "--help" | "-h" => options.help = true,
                // Accepted because cargo's users write it: output is always shown.
                "--nocapture" => {}
                "--tier" => options.tier = value()?.parse()?,
                "--expect" => options.expected = Some(value()?),
                "--test-threads" => options.threads = value()?.parse().context("--test-threads")?,
                option if option.starts_with('-') => bail!("unknown option {option}\n\n{HELP}"),
                _ => options.names.push(word),
            }
        }
        Ok(options)
    }

    fn selects(&self, scenario: &Scenario) -> bool {
        let path = scenario.path();
        let matches_name =
            |name: &String| if self.exact { path == *name } else { path.contains(name.as_str()) };
        scenario.has_mark(self.tier) && (self.names.is_empty() || self.names.iter().any(matches_name))
    }
}

/// Runs the scenarios that the command line selects.
pub fn main() -> ExitCode {
    match Options::parse(std::env::args().skip(1)).and_then(|options| run(&options)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<ExitCode> {
    if options.help {
        print!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    }
    let mut selected: Vec<_> =
        inventory::iter::<Scenario>().filter(|scenario| options.selects(scenario)).collect();
    selected.sort_by_key(|scenario| (!scenario.has_mark(Mark::Slow), scenario.path()));
    let tier = options.tier.name();
    if options.list {
        for scenario in selected {
            let slow = if scenario.has_mark(Mark::Slow) { " slow" } else { "" };
            println!("{}{slow}", scenario.path());
        }
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(!selected.is_empty(), "no scenario of tier {tier} matches {:?}", options.names);

    let vmm = vmm_of(&Host::bare()?.checks()?)?;
    println!("{} scenarios of tier {tier} with {vmm}, {} at a time", selected.len(), options.threads);
    if let Some(expected) = &options.expected {
        ensure!(vmm == *expected, "VMs run with {vmm} here, not with {expected}: see `banger doctor`");
    }
    let _ = TIER.set(options.tier);
    let start = Instant::now();
    let count = selected.len();
    let mut failed = run_all(selected, options.threads);
    if let Err(error) = shared::delete() {
        println!("FAILED  the shared VM: {error:?}");
        failed.push("the shared VM".to_owned());
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{count} scenarios run with {vmm} in {seconds:.0} s, {} failed", failed.len());
    for name in &failed {
        println!("    {name}");
    }
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the scenarios in their order, `threads` at a time, and returns the names of those that failed.
fn run_all(scenarios: Vec<&'static Scenario>, threads: usize) -> Vec<String> {
    let queue = Mutex::new(VecDeque::from(scenarios));
    let failed = Mutex::new(Vec::new());
    // The lock is released when this returns; in the loop's own condition it would be held while a scenario runs.
    let next = || lock(&queue).pop_front();
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some(scenario) = next() {
                    let path = scenario.path();
                    let start = Instant::now();
                    let result = run_one(scenario, &path, TIMEOUT);
                    let seconds = start.elapsed().as_secs_f64();
                    let mut failed = lock(&failed);
                    match result {
                        Ok(()) => println!("ok      {seconds:6.1} s  {path}"),
                        Err(error) => {
                            println!("FAILED  {seconds:6.1} s  {path}\n{error:?}\n");
                            failed.push(path);
                        }
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn lock<T>(mutex: &Mutex<T>) -> impl std::ops::DerefMut<Target = T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a scenario in a thread with its name, which a panic prints. A scenario that runs longer than `limit` fails,
/// and its thread keeps running.
fn run_one(scenario: &'static Scenario, path: &str, limit: Duration) -> Result<()> {
    let (sender, result) = mpsc::channel();
    let run = move || drop(sender.send((scenario.run)()));
    let thread = thread::Builder::new().name(path.to_owned()).spawn(run)?;
    match result.recv_timeout(limit) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => bail!("timed out after {} s", limit.as_secs()),
        Err(RecvTimeoutError::Disconnected) => match thread.join() {
            Ok(()) => bail!("its thread returned no result"),
            Err(panic) => bail!("{}", PanicMessage(panic.as_ref())),
        },
    }
}

/// The message of a panic.
struct PanicMessage<'a>(&'a (dyn Any + Send));

impl fmt::Display for PanicMessage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.downcast_ref::<&str>().copied();
        let text = text.or_else(|| self.0.downcast_ref::<String>().map(String::as_str));
        write!(f, "panicked: {}", text.unwrap_or("no message"))
    }
}

/// Returns the VMM and the accelerator that `banger doctor` reports, as `firecracker/kvm`.
fn vmm_of(checks: &Value) -> Result<String> {
    let check = checks.as_array().into_iter().flatten().find(|check| check["name"] == "VMM");
    let message = check.and_then(|check| check["message"].as_str()).context("no check `VMM`")?;
    let vmm = message.split(' ').next().unwrap_or_default();
    // For example "firecracker 1.12.1 with KVM" or "qemu 7.2.22 without KVM, in software".
    let accelerator = match (message.contains(" with KVM"), message.contains(" without KVM")) {
        (true, false) => "kvm",
        (false, true) => "tcg",
        _ => bail!("no VM can run: {message}"),
    };
    Ok(format!("{vmm}/{accelerator}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_may_have_their_value_after_an_equals_sign() {
        let words = ["--tier=lab-qemu", "--test-threads", "2", "ssh::", "--exact"].map(str::to_owned);
        let options = Options::parse(words.into_iter()).unwrap();
        assert_eq!((options.tier, options.threads, options.exact), (Mark::LabQemu, 2, true));
        assert_eq!(options.names, ["ssh::"]);
        for wrong in [["--tier", "slow"], ["--test-threads", "many"], ["--flag", "x"]] {
            assert!(Options::parse(wrong.map(str::to_owned).into_iter()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn names_select_scenarios_of_the_tier_only() {
        let scenario =
            Scenario { module: "scenarios::ssh", name: "files", run: || Ok(()), marks: &[Mark::Here] };
        let selects = |words: &[&str]| {
            Options::parse(words.iter().map(|word| (*word).to_owned())).unwrap().selects(&scenario)
        };
        assert!(selects(&[]) && selects(&["ssh::"]) && selects(&["no", "fil"]));
        assert!(selects(&["--exact", "ssh::files"]) && !selects(&["--exact", "files"]));
        assert!(!selects(&["other"]) && !selects(&["--tier", "lab"]));
    }

    #[test]
    fn the_vmm_and_its_accelerator_are_read_from_the_doctor() {
        let checks =
            |message: &str| serde_json::json!([{ "name": "KVM" }, { "name": "VMM", "message": message }]);
        assert_eq!(vmm_of(&checks("firecracker 1.12.1 with KVM")).unwrap(), "firecracker/kvm");
        assert_eq!(vmm_of(&checks("qemu 7.2.22 without KVM, in software")).unwrap(), "qemu/tcg");
        assert!(vmm_of(&checks("firecracker needs KVM: because")).is_err());
        assert!(vmm_of(&Value::Null).is_err());
    }

    fn hangs() -> Result<()> {
        loop {
            thread::park();
        }
    }

    #[test]
    fn panics_failures_and_timeouts_of_scenarios_are_reported() {
        let scenario = |run: fn() -> Result<()>| {
            Box::leak(Box::new(Scenario { module: "m", name: "n", run, marks: &[] }))
        };
        let panics = scenario(|| panic!("because {}", 1));
        assert!(run_one(panics, "m::n", TIMEOUT).unwrap_err().to_string().contains("because 1"));
        assert!(run_one(scenario(|| bail!("no")), "m::n", TIMEOUT).is_err());
        run_one(scenario(|| Ok(())), "m::n", TIMEOUT).unwrap();
        let hung = run_one(scenario(hangs), "m::n", Duration::from_millis(10)).unwrap_err();
        assert!(hung.to_string().contains("timed out"), "{hung}");
    }
}
