//! Tests of the built `banger` against a daemon and a guest that are real processes and can hang at any point.
//!
//! Everything is one program, because cargo builds no other program for the tests of a program. Started as `bangerd`,
//! it is the daemon ([`daemon`]), whose guest ([`guest`]) runs the real agent's protocol code on a directory. As `git`
//! or `ssh`, it stands for those programs ([`programs`]). Otherwise it runs the tests, each on its own [`host`].

mod daemon;
mod guest;
mod host;
mod killed;
mod operation;
mod phases;
mod programs;
mod run;
mod sessions;
mod signals;
mod terminal;

use std::{
    env,
    ffi::OsString,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().collect();
    let name = arguments.first().map(Path::new).and_then(Path::file_name).unwrap_or_default();
    let result = match name.to_str().unwrap_or_default() {
        "bangerd" => daemon::main(),
        "git" | "ssh" => programs::main(name, arguments.get(1..).unwrap_or_default()),
        // The agent starts itself as `/proc/self/exe` to work on a workspace.
        "exe" => return banger_agent::main(),
        _ => return tests(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            // There is no other place to report a failure.
            let _ = writeln!(io::stderr(), "{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn tests() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Tests mostly wait for processes.
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    arguments.test_threads.get_or_insert(4 * processors);
    let all = arguments.filter.is_none() && arguments.skip.is_empty() && !arguments.list;
    let trials = [signals::trials(), sessions::trials(), killed::trials()].into_iter().flatten().collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    let done = if all && !conclusion.has_failed() { killed::check_all_points_reached() } else { Ok(()) };
    if let Err(error) = done.and(host::clear()) {
        let _ = writeln!(io::stderr(), "{error:#}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

/// Returns a named test.
fn trial(name: impl Into<String>, test: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    Trial::test(name, move || test().map_err(|error| Failed::from(format!("{error:#}"))))
}
