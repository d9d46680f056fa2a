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
    let mut arguments = Arguments::from_args();
    // Tests mostly wait for processes, and for each other's sandboxes.
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    arguments.test_threads.get_or_insert(4 * processors);
    // The longest first.
    let trials: Vec<Trial> = [property::trials(), reach::trials(), program::trials(), attacks::trials()]
        .into_iter()
        .flatten()
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
