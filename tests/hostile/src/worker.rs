//! A process that runs command lines one after another, with a clock that the harness advances.

use std::{
    env,
    ffi::OsString,
    future::Future,
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    pin::Pin,
    process::ExitCode,
    thread,
};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    process::{Resource, Rlimit, setrlimit},
};

use crate::orders::{Ended, Order};

/// Environment variable with the path of the harness's socket.
pub(crate) const SOCKET_VARIABLE: &str = "BANGER_HOSTILE_SOCKET";

/// Written to standard output after each command.
pub(crate) const END_OF_OUTPUT: &[u8] = b"\0end\0";

/// Maximum size of a file that a worker, or git for it, may write, in bytes: enough for all that a guest sends in
/// cases that do not try to fill the disk.
const MAX_FILE: u64 = 64 << 20;

/// The allocations of this process.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Forgets the peak.
    pub reset: fn(),
    /// Returns the peak since then, in bytes.
    pub peak: fn() -> usize,
}

/// Returns whether this process was started as a worker, rather than to run tests or one command line.
#[must_use]
pub fn is_worker() -> bool {
    env::var_os(SOCKET_VARIABLE).is_some()
}

/// Runs command lines with `run` until the harness disconnects.
///
/// # Errors
/// Returns an error if the harness cannot be reached.
pub fn serve_worker<F: Future<Output = ExitCode> + 'static>(
    run: fn(Vec<OsString>) -> F,
    memory: Memory,
) -> io::Result<()> {
    let limit = Rlimit { current: Some(MAX_FILE), maximum: Some(MAX_FILE) };
    setrlimit(Resource::Fsize, limit)?;
    let run = |arguments| -> Pin<Box<dyn Future<Output = ExitCode>>> { Box::pin(run(arguments)) };
    let path = env::var_os(SOCKET_VARIABLE).unwrap_or_default();
    let mut harness = UnixStream::connect(path)?;
    let orders = BufReader::new(harness.try_clone()?);
    let (commands, command_lines) = std::sync::mpsc::channel();
    let (ticks, mut clock) = tokio::sync::mpsc::unbounded_channel();
    thread::spawn(move || {
        for order in orders.lines().map_while(Result::ok) {
            match serde_json::from_str(&order) {
                Ok(Order::Run(arguments)) => drop(commands.send(arguments)),
                Ok(Order::Tick) => drop(ticks.send(())),
                Err(_) => return,
            }
        }
    });
    while let Ok(arguments) = command_lines.recv() {
        while clock.try_recv().is_ok() {}
        // ssh leaves its terminal so that writing may fail.
        let flags = fcntl_getfl(io::stdout())?;
        fcntl_setfl(io::stdout(), flags - OFlags::NONBLOCK)?;
        let arguments = arguments.into_iter().map(OsString::from).collect();
        let ended = Ended { peak_memory: run_one(run(arguments), &mut clock, memory)? };
        io::stdout().write_all(END_OF_OUTPUT)?;
        io::stdout().flush()?;
        harness.write_all(format!("{}\n", serde_json::to_string(&ended)?).as_bytes())?;
    }
    Ok(())
}

#[cfg(feature = "clock")]
fn run_one(
    mut command: Pin<Box<dyn Future<Output = ExitCode>>>,
    clock: &mut tokio::sync::mpsc::UnboundedReceiver<()>,
    memory: Memory,
) -> io::Result<usize> {
    use std::time::Duration;

    use crate::limits::GUARD;

    /// Time by which one order advances the clock.
    const STEP: Duration = Duration::from_secs(30);

    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build()?;
    (memory.reset)();
    let (running, ended) = std::sync::mpsc::channel::<()>();
    runtime.block_on(async {
        // While a thread of the runtime is busy, the clock is paused unless it is advanced.
        tokio::task::spawn_blocking(move || ended.recv());
        loop {
            tokio::select! {
                biased;
                _ = &mut command => return,
                Some(()) = clock.recv() => tokio::time::advance(STEP).await,
            }
        }
    });
    drop(command);
    let peak_memory = (memory.peak)();
    drop(running);
    // Threads that still write files must end before the files are compared.
    runtime.shutdown_timeout(GUARD);
    Ok(peak_memory)
}

#[cfg(not(feature = "clock"))]
fn run_one(
    _: Pin<Box<dyn Future<Output = ExitCode>>>,
    _: &mut tokio::sync::mpsc::UnboundedReceiver<()>,
    _: Memory,
) -> io::Result<usize> {
    Err(io::Error::other("a worker needs the feature `clock`"))
}
