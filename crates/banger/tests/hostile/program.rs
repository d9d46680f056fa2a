//! The built program, with a terminal as its three streams, in a few dozen cases.

use banger_hostile::{Case, Client, Command, Harness, Programs};
use libtest_mimic::{Failed, Trial};

/// Number of cases.
const CASES: usize = 40;

/// Number of bytes that a case is made of.
const BYTES: usize = 400;

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::test("program::any_conversation", any_conversation)]
}

fn any_conversation() -> Result<(), Failed> {
    let mut harness = Harness::new(Client::Program(env!("CARGO_BIN_EXE_banger").into()));
    let mut problems = Vec::new();
    let cases = (0_u64..).map(|seed| {
        let bytes: Vec<_> = numbers(seed).take(BYTES).collect();
        Case::generate(&bytes, harness.workspace(), Programs::Some)
    });
    let cases: Vec<_> = cases.filter(is_run_by_users).take(CASES).collect();
    for case in cases {
        let violations = harness.run_case(&case);
        problems.extend(violations.iter().map(|violation| format!("{violation}\n{case:#?}")));
    }
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n").into()) }
}

/// Returns whether the case has a command whose output or files a guest would want to control.
fn is_run_by_users(case: &Case) -> bool {
    case.steps.iter().any(|step| {
        let command = &step.command;
        let copies =
            matches!(command, Command::CopyOut { .. } | Command::Exec { .. } | Command::Ports { .. });
        // Few of the cases have a workspace.
        matches!(command, Command::Export(_) | Command::Pull)
            || copies && step.conversations[0].0.len() % 4 == 0
    })
}

/// Returns the same random bytes for each seed (SplitMix64).
pub(crate) fn numbers(seed: u64) -> impl Iterator<Item = u8> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed >> 56) as u8
    })
}
