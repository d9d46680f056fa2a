//! Runs the scenarios of the lab's tiers, a few in each lab: if a lab freezes, only its unfinished ones run again.

use std::{
    collections::{BTreeSet, VecDeque},
    ffi::OsString,
    io::{self, Read, Seek, Write},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::{
    boot::{DEFAULT_MEMORY, FROZEN, Lab},
    machine::{CommandStdio, ExitReason},
};
use crate::{
    command::say,
    project::Project,
    scenarios::{self as suite, Scenario},
};

/// A tier of scenarios that run in the lab.
struct Tier {
    /// The tier's name for `--tier`.
    name: &'static str,
    /// The VMM and accelerator that VMs must use.
    vmm: &'static str,
    /// Shell commands that run before the scenarios.
    setup: &'static str,
}

const TIERS: [Tier; 2] = [
    Tier { name: "lab", vmm: FIRECRACKER, setup: ":" },
    // QEMU uses the vsock of the lab's kernel, because banger-vsock-device is missing.
    Tier {
        name: "lab-qemu",
        vmm: "qemu/kvm",
        setup: "export BANGER_VMM=qemu BANGER_PROGRAMS=/run/programs PATH=/usr/sbin:/usr/bin:/sbin:/bin
            mkdir $BANGER_PROGRAMS
            cp /in/programs/banger /in/programs/bangerd /in/programs/banger-agent $BANGER_PROGRAMS",
    },
];

/// Scenarios that run on request.
const ON_REQUEST: Tier = Tier { name: "lab-more", vmm: FIRECRACKER, setup: ":" };

const FIRECRACKER: &str = "firecracker/kvm";

/// Number of labs in parallel; each has one processor.
const PARALLEL_LABS: usize = 2;

/// Number of scenarios in a lab; a slow one counts as `SLOW_SIZE`.
const CHUNK_SIZE: usize = 4;
const SLOW_SIZE: usize = 2;

/// Time limit for a lab. Under two nested emulations, each scenario takes many seconds.
const TIME_LIMIT: Duration = Duration::from_secs(20 * 60);

/// Maximum number of labs for a chunk: if all of them freeze, the run fails.
const MAX_TRIES: usize = 3;

/// Scenarios that one lab runs in sequence.
struct Chunk {
    tier: &'static Tier,
    names: Vec<String>,
}

/// The results so far.
#[derive(Default)]
struct Tally {
    passed: usize,
    failed: Vec<String>,
    labs: usize,
    frozen: usize,
}

/// Runs the lab's scenarios, with those on request if `on_request`, and returns how many passed. The programs and the
/// template must exist.
pub(crate) fn scenarios(project: &Project, on_request: bool) -> Result<usize> {
    let program = suite::build(project)?;
    let mut chunks = VecDeque::new();
    for tier in on_request.then_some(&ON_REQUEST).into_iter().chain(&TIERS) {
        let names = chunks_of(suite::list(&program, tier.name)?);
        chunks.extend(names.into_iter().map(|names| Chunk { tier, names }));
    }
    let lab = Lab::prepare(project, Some(program))?;
    let (queue, tally) = (Mutex::new(chunks), Mutex::new(Tally::default()));
    let lock = || queue.lock().unwrap_or_else(PoisonError::into_inner);
    let work = || {
        loop {
            let Some(chunk) = lock().pop_front() else { return Ok(()) };
            if let Err(error) = lab.run_chunk(chunk, &tally) {
                // The other labs would fail in the same way.
                lock().clear();
                return Err(error);
            }
        }
    };
    let result = thread::scope(|scope| {
        let labs: Vec<_> = (0..PARALLEL_LABS).map(|_| scope.spawn(work)).collect();
        labs.into_iter()
            .map(|lab| lab.join().unwrap_or_else(|_| bail!("a lab's thread panicked")))
            .fold(Ok(()), Result::and)
    });
    let Tally { passed, failed, labs, frozen } = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{passed} scenarios passed in the lab, {} failed; of {labs} labs {frozen} froze", failed.len());
    result?;
    ensure!(
        failed.is_empty(),
        "failed in the lab: {}; run one alone: cargo xtask lab -- /in/smoke/scenarios --tier TIER NAME",
        failed.join(", ")
    );
    Ok(passed)
}

/// Groups scenarios into chunks of one lab each, in order.
fn chunks_of(scenarios: Vec<Scenario>) -> Vec<Vec<String>> {
    let mut chunks: Vec<Vec<String>> = Vec::new();
    let mut free = 0;
    for Scenario { name, slow } in scenarios {
        let size = if slow { SLOW_SIZE } else { 1 };
        match chunks.last_mut().filter(|_| size <= free) {
            Some(chunk) => {
                free -= size;
                chunk.push(name);
            }
            None => {
                free = CHUNK_SIZE - size;
                chunks.push(vec![name]);
            }
        }
    }
    chunks
}

/// Parses a lab's output: returns which of `names` passed and which failed.
fn results(text: &str, names: &[String]) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut passed, mut failed) = (BTreeSet::new(), BTreeSet::new());
    for line in text.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let [verdict, _, "s", name] = words[..] else { continue };
        match verdict {
            _ if !names.iter().any(|known| known == name) => {}
            "ok" => drop(passed.insert(name.to_owned())),
            "FAILED" => drop(failed.insert(name.to_owned())),
            _ => {}
        }
    }
    (passed, failed)
}

impl Lab<'_> {
    /// Runs a chunk in a lab of its own. If the lab freezes, the unfinished scenarios run in a fresh one.
    fn run_chunk(&self, chunk: Chunk, tally: &Mutex<Tally>) -> Result<()> {
        let Chunk { tier, mut names } = chunk;
        for retries in (0..MAX_TRIES).rev() {
            let start = Instant::now();
            let (reason, text) = self.run_in_lab(tier, &names)?;
            let (passed, failed) = results(&text, &names);
            names.retain(|name| !passed.contains(name) && !failed.contains(name));
            {
                let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                tally.passed += passed.len();
                tally.failed.extend(failed.iter().map(|name| format!("{name} (tier {})", tier.name)));
                tally.labs += 1;
                tally.frozen += usize::from(reason == ExitReason::Frozen);
                // Under the lock, so that the outputs of two labs do not mix.
                print!("{text}");
                println!("these took {} s in a lab", start.elapsed().as_secs());
                io::stdout().flush()?;
            }
            match reason {
                ExitReason::Frozen if names.is_empty() => return Ok(()),
                ExitReason::Frozen if retries > 0 => {
                    say(format_args!("{FROZEN}; retrying in a fresh one: {}", names.join(", ")));
                }
                ExitReason::Frozen => {
                    bail!("{FROZEN}, in each of {MAX_TRIES} labs, with {}", names.join(", "))
                }
                ExitReason::TimedOut => {
                    bail!("{} took longer in the lab than {} s", names.join(", "), TIME_LIMIT.as_secs())
                }
                // The tally has the failures.
                ExitReason::Status(_) if names.is_empty() && !failed.is_empty() => return Ok(()),
                ExitReason::Status(status) => {
                    ensure!(names.is_empty(), "the lab did not run {}: status {status}", names.join(", "));
                    ensure!(status == 0, "the scenarios' program failed in the lab: exit status {status}");
                    return Ok(());
                }
            }
        }
        bail!("no lab was booted")
    }

    /// Runs scenarios in a fresh lab. Returns how the lab ended, and its output.
    fn run_in_lab(&self, tier: &Tier, names: &[String]) -> Result<(ExitReason, String)> {
        let script = format!(
            "{}\nexec /in/smoke/scenarios --tier {} --expect {} --test-threads 1 --exact {} 2>&1",
            tier.setup,
            tier.name,
            tier.vmm,
            names.join(" ")
        );
        let command = ["sh", "-c", &script].map(OsString::from);
        let mut output_file = tempfile::tempfile()?;
        let out = Box::new(output_file.try_clone()?);
        let stdio = CommandStdio { out, err: Box::new(io::stderr()), interactive: false };
        let reason = self.boot(&command, DEFAULT_MEMORY, Some(TIME_LIMIT), stdio)?;
        let mut text = Vec::new();
        output_file.rewind()?;
        output_file.read_to_end(&mut text).context("cannot read the lab's output")?;
        Ok((reason, String::from_utf8_lossy(&text).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(name: &str, slow: bool) -> Scenario {
        Scenario { name: name.to_owned(), slow }
    }

    #[test]
    fn a_chunk_has_fewer_scenarios_if_they_are_slow() {
        let slow = ["a", "b", "c"].map(|name| scenario(name, true));
        let others = ["d", "e", "f", "g", "h", "i", "j", "k", "l", "m"].map(|name| scenario(name, false));
        let chunks = chunks_of(slow.into_iter().chain(others).collect());
        let chunks: Vec<_> = chunks.iter().map(|chunk| chunk.join("")).collect();
        assert_eq!(chunks, ["ab", "cde", "fghi", "jklm"]);
    }

    #[test]
    fn finished_scenarios_are_parsed_from_the_labs_output() {
        let names = ["ssh::one", "ssh::two", "ssh::three"].map(str::to_owned);
        let text = "3 scenarios of tier lab with firecracker/kvm, 1 at a time\nok        3.1 s  ssh::one\n\
                    ok 3.2 s of::another\nFAILED    7.0 s  ssh::two\nbecause\nok    1";
        let (passed, failed) = results(text, &names);
        assert_eq!((passed, failed), (["ssh::one".to_owned()].into(), ["ssh::two".to_owned()].into()));
    }
}
