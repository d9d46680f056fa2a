//! Whether the guest's conversations follow the protocol, so that its lies reach the code that they are for.

use banger_hostile::{Case, Client, Command, ExportTo, Harness, Programs, Step};
use libtest_mimic::{Failed, Trial};

use crate::program::numbers;

/// Number of random pulls.
const PULLS: usize = 60;

/// Number of them that fetch objects from the guest's git, and of those whose fetch succeeds. The cases are the same in
/// every run; these numbers leave room for other cases.
const MIN_FETCHES: usize = 24;
const MIN_FETCHED: usize = 12;

/// Number of bytes that a case is made of.
const BYTES: usize = 600;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("reach::an_honest_guest_gets_every_request", an_honest_guest_gets_every_request),
        Trial::test("reach::random_pulls_fetch_objects", random_pulls_fetch_objects),
    ]
}

fn an_honest_guest_gets_every_request() -> Result<(), Failed> {
    let mut harness = Harness::patient(Client::Worker);
    for command in [
        Command::CopyOut { source: "report.txt", target: "in" },
        Command::Print { source: "report.txt" },
        Command::CopyIn,
        Command::Exec { silent: false },
        Command::Ssh,
        Command::SshForward,
        Command::SshListen,
        Command::Sftp,
        Command::Export(ExportTo::Table),
        Command::Pull,
        Command::Prepare,
        Command::Push,
        Command::Delete,
        Command::Ports { json: false },
        Command::Ping,
        Command::Health { json: false },
        Command::Logs,
    ] {
        let conversations = harness.workspace().honest(&command);
        let violations = harness.run_case(&Case { steps: vec![Step::new(command, conversations)] });
        if let Some(problem) = violations.first().map(ToString::to_string).as_deref().or(harness.unreached())
        {
            return Err(problem.into());
        }
    }
    Ok(())
}

fn random_pulls_fetch_objects() -> Result<(), Failed> {
    let mut harness = Harness::new(Client::Worker);
    let cases = (0_u64..).map(|seed| {
        let bytes: Vec<_> = numbers(seed).take(BYTES).collect();
        Case::generate(&bytes, harness.workspace(), Programs::Some)
    });
    let is_pull = |case: &Case| match case.steps.as_slice() {
        [step] => matches!(step.command, Command::Pull | Command::Delete),
        _ => false,
    };
    let cases: Vec<_> = cases.filter(is_pull).take(PULLS).collect();
    let (mut fetches, mut fetched) = (0, 0);
    for case in &cases {
        harness.run_case(case);
        let requests = harness.requests();
        if let Some(at) = requests.iter().position(|request| request.contains("upload-pack")) {
            fetches += 1;
            // The client fetches changed files only when it has the objects.
            fetched += usize::from(requests[at..].iter().any(|request| request.ends_with("Fetch")));
        }
    }
    if fetches < MIN_FETCHES || fetched < MIN_FETCHED {
        return Err(format!("{fetches} of {PULLS} pulls fetch objects, and {fetched} get them").into());
    }
    Ok(())
}
