//! Ten thousand cases: each promise is a test, and all of them share one run.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    sync::{Mutex, OnceLock, PoisonError},
    thread,
    time::Instant,
};

use banger_hostile::{Case, Client, Harness, Programs, Promise};
use libtest_mimic::{Failed, Trial};
use proptest::{
    collection::vec,
    prelude::any,
    test_runner::{
        Config, FileFailurePersistence, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner,
    },
};

/// Number of cases. Half of them are the same in every run.
const CASES: u32 = 10_000;

/// Maximum number of bytes that a case is made of.
const MAX_BYTES: usize = 600;

/// Maximum time for making a failing case smaller, in milliseconds.
const MAX_SHRINK_TIME: u32 = 10_000;

/// Seeds of failures, which every run repeats first.
const REGRESSIONS: &str = "tests/hostile/regressions.txt";

/// Environment variable with the seed of a run to repeat.
const SEED: &str = "BANGER_HOSTILE_SEED";

/// The first violation of each promise, with its case.
type Violations = BTreeMap<Promise, String>;

pub(crate) fn trials() -> Vec<Trial> {
    let trial = |promise: Promise| {
        let name = format!("property::{promise:?}").to_lowercase();
        Trial::test(name, move || each_promise_is_kept_in_ten_thousand_cases(promise))
    };
    Promise::ALL.map(trial).into()
}

fn each_promise_is_kept_in_ten_thousand_cases(promise: Promise) -> Result<(), Failed> {
    static RUN: OnceLock<Violations> = OnceLock::new();
    match RUN.get_or_init(run).get(&promise) {
        Some(violation) => Err(violation.into()),
        None => Ok(()),
    }
}

#[allow(clippy::print_stderr)] // the output of a test that has no harness of its own to capture it
fn run() -> Violations {
    let seed = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(rand_seed);
    eprintln!("hostile guest: {SEED}={seed} repeats this run");
    // Cases mostly wait for processes.
    let lanes = 2 * thread::available_parallelism().map_or(2, |count| count.get().min(4)) as u32;
    let violations = Mutex::default();
    let start = Instant::now();
    thread::scope(|scope| {
        for lane in 0..lanes {
            let violations = &violations;
            scope.spawn(move || {
                let harness = RefCell::new(Harness::new(Client::Worker));
                for seed in [u64::from(lane), seed.wrapping_add(lane.into())] {
                    run_cases(&harness, seed, CASES / lanes / 2, violations);
                }
            });
        }
    });
    eprintln!("hostile guest: {CASES} cases in {:.1} s", start.elapsed().as_secs_f64());
    violations.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `count` cases. After a violation the rest are run too, for the other promises.
fn run_cases(harness: &RefCell<Harness>, seed: u64, count: u32, violations: &Mutex<Violations>) {
    let done = Cell::new(0);
    let mut failures = 0;
    while done.get() < count {
        let config = Config {
            cases: count - done.get(),
            max_shrink_time: MAX_SHRINK_TIME,
            failure_persistence: Some(Box::new(FileFailurePersistence::Direct(REGRESSIONS))),
            ..Config::default()
        };
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        bytes[31] = failures;
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let mut runner = TestRunner::new_with_rng(config, rng);
        let first = Cell::new(None);
        let result = runner.run(&vec(any::<u8>(), 0..MAX_BYTES), |bytes| {
            if first.get().is_none() {
                done.set(done.get() + 1);
            }
            let mut harness = harness.borrow_mut();
            let case = Case::generate(&bytes, harness.workspace(), Programs::Some);
            for violation in harness.run_case(&case) {
                let is_known = lock(violations).contains_key(&violation.promise);
                // While a case is made smaller, it must break the same promise.
                if first.get().is_none_or(|first| first == violation.promise) && !is_known {
                    first.set(Some(violation.promise));
                    return Err(TestCaseError::fail(violation.to_string()));
                }
            }
            Ok(())
        });
        match (result, first.get()) {
            (Ok(()), _) => {}
            (Err(TestError::Fail(reason, bytes)), Some(promise)) => {
                let case = Case::generate(&bytes, harness.borrow().workspace(), Programs::Some);
                lock(violations).entry(promise).or_insert_with(|| format!("{reason}\n{case:#?}"));
                failures += 1;
            }
            (Err(error), _) => panic!("{error}"),
        }
    }
}

fn lock(violations: &Mutex<Violations>) -> std::sync::MutexGuard<'_, Violations> {
    violations.lock().unwrap_or_else(PoisonError::into_inner)
}

fn rand_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}
