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
    booting::{DEFAULT_MEMORY, FROZEN, Lab},
    machine::{End, Talk},
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
    setting: &'static str,
}

const TIERS: [Tier; 2] = [
    Tier { name: "lab", vmm: FIRECRACKER, setting: ":" },
    // QEMU uses the vsock of the lab's kernel, because banger-vsock-device is missing.
    Tier {
        name: "lab-qemu",
        vmm: "qemu/kvm",
        setting: "export BANGER_VMM=qemu BANGER_PROGRAMS=/run/programs PATH=/usr/sbin:/usr/bin:/sbin:/bin
            mkdir $BANGER_PROGRAMS
            cp /in/programs/banger /in/programs/bangerd /in/programs/banger-agent $BANGER_PROGRAMS",
    },
];

/// Scenarios that run on request.
const MORE: Tier = Tier { name: "lab-more", vmm: FIRECRACKER, setting: ":" };

const FIRECRACKER: &str = "firecracker/kvm";

/// Number of labs in parallel; each has one processor.
const LABS: usize = 2;

/// Number of scenarios in a lab; a slow one counts as `SLOW`.
const CHUNK: usize = 4;
const SLOW: usize = 2;

/// Time limit for a lab. Under two nested emulations, each scenario takes many seconds.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// Maximum number of labs for a chunk: if all of them freeze, the run fails.
const TRIES: usize = 3;

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

/// Runs the lab's scenarios, with those on request if `more`, and returns how many passed. The programs and the
/// template must exist.
pub(crate) fn scenarios(project: &Project, more: bool) -> Result<usize> {
    let program = suite::build(project)?;
    let mut chunks = VecDeque::new();
    for tier in more.then_some(&MORE).into_iter().chain(&TIERS) {
        let names = chunks_of(suite::list(&program, tier.name)?);
        chunks.extend(names.into_iter().map(|names| Chunk { tier, names }));
    }
    let lab = Lab::prepare(project, Some(program))?;
    let (left, tally) = (Mutex::new(chunks), Mutex::new(Tally::default()));
    let lock = || left.lock().unwrap_or_else(PoisonError::into_inner);
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
        let labs: Vec<_> = (0..LABS).map(|_| scope.spawn(work)).collect();
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
    let mut room = 0;
    for Scenario { name, slow } in scenarios {
        let size = if slow { SLOW } else { 1 };
        match chunks.last_mut().filter(|_| size <= room) {
            Some(chunk) => {
                room -= size;
                chunk.push(name);
            }
            None => {
                room = CHUNK - size;
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
        for left in (0..TRIES).rev() {
            let start = Instant::now();
            let (end, text) = self.run_in_lab(tier, &names)?;
            let (passed, failed) = results(&text, &names);
            names.retain(|name| !passed.contains(name) && !failed.contains(name));
            {
                let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                tally.passed += passed.len();
                tally.failed.extend(failed.iter().map(|name| format!("{name} (tier {})", tier.name)));
                tally.labs += 1;
                tally.frozen += usize::from(end == End::Frozen);
                // Under the lock, so that the outputs of two labs do not mix.
                print!("{text}");
                println!("these took {} s in a lab", start.elapsed().as_secs());
                io::stdout().flush()?;
            }
            match end {
                End::Frozen if names.is_empty() => return Ok(()),
                End::Frozen if left > 0 => {
                    say(format_args!("{FROZEN}; retrying in a fresh one: {}", names.join(", ")));
                }
                End::Frozen => bail!("{FROZEN}, in each of {TRIES} labs, with {}", names.join(", ")),
                End::TimeUp => {
                    bail!("{} took longer in the lab than {} s", names.join(", "), LIMIT.as_secs())
                }
                // The tally has the failures.
                End::Status(_) if names.is_empty() && !failed.is_empty() => return Ok(()),
                End::Status(status) => {
                    ensure!(names.is_empty(), "the lab did not run {}: status {status}", names.join(", "));
                    ensure!(status == 0, "the scenarios' program failed in the lab: exit status {status}");
                    return Ok(());
                }
            }
        }
        bail!("no lab was booted")
    }

    /// Runs scenarios in a fresh lab. Returns how the lab ended, and its output.
    fn run_in_lab(&self, tier: &Tier, names: &[String]) -> Result<(End, String)> {
        let script = format!(
            "{}\nexec /in/smoke/scenarios --tier {} --expect {} --test-threads 1 --exact {} 2>&1",
            tier.setting,
            tier.name,
            tier.vmm,
            names.join(" ")
        );
        let command = ["sh", "-c", &script].map(OsString::from);
        let mut printed = tempfile::tempfile()?;
        let out = Box::new(printed.try_clone()?);
        let talk = Talk { out, err: Box::new(io::stderr()), typed: false };
        let end = self.boot(&command, DEFAULT_MEMORY, Some(LIMIT), talk)?;
        let mut text = Vec::new();
        printed.rewind()?;
        printed.read_to_end(&mut text).context("cannot read the lab's output")?;
        Ok((end, String::from_utf8_lossy(&text).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(name: &str, slow: bool) -> Scenario {
        Scenario { name: name.to_owned(), slow }
    }

    #[test]
    fn a_lab_gets_a_few_and_fewer_of_the_slow_ones() {
        let slow = ["a", "b", "c"].map(|name| scenario(name, true));
        let others = ["d", "e", "f", "g", "h", "i", "j", "k", "l", "m"].map(|name| scenario(name, false));
        let chunks = chunks_of(slow.into_iter().chain(others).collect());
        let chunks: Vec<_> = chunks.iter().map(|chunk| chunk.join("")).collect();
        assert_eq!(chunks, ["ab", "cde", "fghi", "jklm"]);
    }

    #[test]
    fn what_a_lab_has_finished_is_read_from_what_it_printed() {
        let names = ["ssh::one", "ssh::two", "ssh::three"].map(str::to_owned);
        let text = "3 scenarios of tier lab with firecracker/kvm, 1 at a time\nok        3.1 s  ssh::one\n\
                    ok 3.2 s of::another\nFAILED    7.0 s  ssh::two\nbecause\nok    1";
        let (passed, failed) = results(text, &names);
        assert_eq!((passed, failed), (["ssh::one".to_owned()].into(), ["ssh::two".to_owned()].into()));
    }
}
