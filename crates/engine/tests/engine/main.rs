//! Tests of the engine on fake VMMs, which are real processes. No virtual machine runs.
//!
//! Everything is one program, because cargo builds no other program for the tests of a library. Started as
//! `firecracker`, `qemu-system-x86_64` or `banger-vsock-device`, it acts as that program ([`vmm`]). As `bangerd`, it
//! is a daemon that executes commands ([`driver`]), a console logger, or the KVM probe. Otherwise it runs the tests,
//! each on its own [`host`].

mod catalogs;
mod concurrency;
mod consistency;
mod driver;
mod failures;
mod fixtures;
mod host;
mod http;
mod killed;
mod life;
mod ports;
mod power_loss;
mod processes;
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

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};

/// Timeout after which a test counts as hung, far above what any test needs.
const TEST_TIMEOUT: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().collect();
    let name = arguments.first().map(Path::new).and_then(Path::file_name).unwrap_or_default();
    let arguments = arguments.get(1..).unwrap_or_default();
    let name = name.to_str().unwrap_or_default();
    if arguments == ["--version"]
        && let Some(version) = vmm::version(name)
    {
        return report(writeln!(io::stdout(), "{version}").map_err(Into::into));
    }
    match name {
        "firecracker" => process(vmm::firecracker(arguments)),
        "qemu-system-x86_64" => process(vmm::qemu(arguments)),
        "banger-vsock-device" => process(vmm::vsock_device(arguments)),
        "bangerd" => match bangerd(arguments) {
            Some(done) => report(done),
            None => process(daemon(arguments)),
        },
        // The agent starts itself as `/proc/self/exe` to copy files.
        "exe" => banger_agent::main(),
        _ => tests(),
    }
}

/// Runs a process other than the tests.
fn process(work: impl Future<Output = Result<()>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    report(runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(work)))
}

/// Returns the exit code of a process, whose error it prints.
fn report(done: Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs a small process of the daemon's program, which has no runtime: the engine confines it. Returns `None` if this
/// is no such process.
fn bangerd(arguments: &[OsString]) -> Option<Result<()>> {
    match arguments.iter().map(|word| word.to_str().unwrap_or_default()).collect::<Vec<_>>()[..] {
        ["console", console, vmm] => {
            Some(banger_engine::console_logger_main(console.as_ref(), vmm.as_ref()).map_err(Into::into))
        }
        ["namespace", nft] => Some(banger_engine::namespace_main(nft.into()).map_err(Into::into)),
        ["gateway", egress, ref sockets @ ..] => {
            let sockets: Vec<_> = sockets.iter().map(|socket| (*socket).to_owned()).collect();
            let egress = egress.parse().map_err(anyhow::Error::from);
            Some(egress.and_then(|egress| Ok(banger_engine::gateway_main(egress, &sockets)?)))
        }
        ["kvm-probe"] => {
            let verdict = r#"{"verdict":"usable","reason":"a fake probe"}"#;
            Some(writeln!(io::stdout(), "{verdict}").map_err(Into::into))
        }
        _ => None,
    }
}

async fn daemon(arguments: &[OsString]) -> Result<()> {
    let [command, root] = arguments else { anyhow::bail!("no such command") };
    anyhow::ensure!(command == "daemon", "no such command");
    // Same as in the real daemon.
    banger_sys::configure_malloc();
    vmm::exit_with_tests(Path::new(root))?;
    driver::serve(host::dirs(Path::new(root)), host::programs()?).await
}

fn tests() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Tests mostly wait for processes and engine timeouts.
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    arguments.test_threads.get_or_insert(4 * processors);
    let all = arguments.filter.is_none() && arguments.skip.is_empty() && !arguments.list;
    let trials = [
        life::trials(),
        ports::trials(),
        processes::trials(),
        catalogs::trials(),
        power_loss::trials(),
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
