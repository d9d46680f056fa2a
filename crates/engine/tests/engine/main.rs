//! Tests of the engine on fake VMMs, which are real processes. No virtual machine runs.
//!
//! Everything is one program, because cargo builds no other program for the tests of a library. Started as
//! `firecracker`, `qemu-system-x86_64` or `banger-vsock-device`, it acts as that program ([`vmm`]). As `bangerd`, it
//! is a daemon that executes commands ([`driver`]), a console logger, or the KVM probe. Otherwise it runs the tests,
//! each on its own [`host`].

mod concurrency;
mod consistency;
mod driver;
mod failures;
mod fixtures;
mod host;
mod killed;
mod life;
mod registry;
mod roles;
mod soak;
mod vmm;

use std::{
    env,
    ffi::OsString,
    future::Future,
    io::{self, Write},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Failed, Trial};

/// Timeout after which a test counts as hung, far above what any test needs.
const TEST_TIMEOUT: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().collect();
    let name = arguments.first().map(Path::new).and_then(Path::file_name).unwrap_or_default();
    let arguments = arguments.get(1..).unwrap_or_default();
    match name.to_str().unwrap_or_default() {
        "firecracker" => process(vmm::firecracker(arguments)),
        "qemu-system-x86_64" => process(vmm::qemu(arguments)),
        "banger-vsock-device" => process(vmm::vsock_device(arguments)),
        "bangerd" => process(bangerd(arguments)),
        // The agent starts itself as `/proc/self/exe` to copy files.
        "exe" => banger_agent::main(),
        _ => tests(),
    }
}

/// Runs a process other than the tests.
fn process(work: impl Future<Output = Result<()>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(work));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn bangerd(arguments: &[OsString]) -> Result<()> {
    let path = |at| arguments.get(at).map(Path::new).context("an argument is missing");
    match arguments.first().and_then(|word| word.to_str()) {
        Some("console") => Ok(banger_engine::console_logger_main(path(1)?, path(2)?)?),
        Some("kvm-probe") => Ok(writeln!(io::stdout(), r#"{{"verdict":"usable","reason":"a fake probe"}}"#)?),
        Some("daemon") => {
            // Same as in the real daemon.
            banger_sys::configure_malloc();
            vmm::exit_with_tests(path(1)?)?;
            driver::serve(host::dirs(path(1)?), host::programs()?).await
        }
        _ => anyhow::bail!("no such command"),
    }
}

fn tests() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Tests mostly wait for processes and engine timeouts.
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    arguments.test_threads.get_or_insert(4 * processors);
    let all = arguments.filter.is_none() && arguments.skip.is_empty() && !arguments.list;
    let trials = [
        life::trials(),
        failures::trials(),
        roles::trials(),
        concurrency::trials(),
        soak::trials(),
        killed::trials(),
    ];
    let conclusion = libtest_mimic::run(&arguments, trials.into_iter().flatten().collect());
    let done = if all && !conclusion.has_failed() { killed::check_all_points_reached() } else { Ok(()) };
    if let Err(error) = done.and(host::TestDirs::clear()) {
        say(&format!("{error:#}"));
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

/// Returns a named test.
fn trial(name: impl Into<String>, test: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    Trial::test(name, move || test().map_err(|error| Failed::from(format!("{error:#}"))))
}

/// Writes a line to standard error.
fn say(line: &str) {
    // There is no other place to report a failure.
    let _ = writeln!(io::stderr(), "{line}");
}
