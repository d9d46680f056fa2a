//! The client keeps its promises to the user, whatever the guest says: a property test with thousands of
//! conversations, known attacks by name, and the built program.
//!
//! Everything is one program. Started by the harness it is a worker that runs command lines, and started by git or ssh
//! with a command line it is banger. Otherwise it runs the tests, and is the hostile guest.

mod attacks;
mod program;
mod property;
mod reach;

use std::{env, process::ExitCode};

use banger_hostile::{Memory, is_worker, serve_worker};
use libtest_mimic::{Arguments, Trial};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

#[allow(clippy::expect_used)] // the harness reports a worker that panics
fn main() -> ExitCode {
    if is_worker() {
        if env::args_os().len() > 1 {
            return banger::main();
        }
        let memory = Memory { reset: || MEMORY.reset_peak_usage(), peak: || MEMORY.peak_usage() };
        banger::handle_signals().expect("the process can have threads");
        serve_worker(banger::run, memory).expect("the harness is there");
        return ExitCode::SUCCESS;
    }
    let trials: Vec<Trial> = [attacks::trials(), property::trials(), program::trials(), reach::trials()]
        .into_iter()
        .flatten()
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
