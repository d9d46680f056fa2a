//! Starts the daemon: lock, log, store, socket. Reports to the process that started it that it is ready,
//! or why not.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use banger_api::{ApiError, Dirs, ErrorKind, ProgramId, ProxyStatus, config::Variable};
use banger_engine::{Engine, Programs, RotatingLog, StoreLock};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::{daemon::Daemon, proxy::Proxy, serve::serve, socket::Socket};

/// Maximum size of the log, in bytes.
const LOG_MAX: u64 = 8 << 20;

/// Maximum number of open files to ask for.
const MAX_DESCRIPTORS: u64 = 65_536;

/// Runs the daemon until a stop is requested.
pub(crate) fn run() -> ExitCode {
    banger_sys::configure_malloc();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = runtime.map_err(io_error("start")).and_then(|runtime| {
        let result = runtime.block_on(run_async());
        // Cancelled synchronous work may not have noticed it yet.
        runtime.shutdown_background();
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(kind = %error.kind, message = %error.message, "bangerd failed");
            report(&json!({ "error": error }));
            ExitCode::FAILURE
        }
    }
}

async fn run_async() -> Result<(), ApiError> {
    // A new session, so that closing the terminal does not affect the daemon. Fails only if this process already
    // leads a process group.
    let _ = rustix::process::setsid();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    raise_descriptor_limit();
    let lock = StoreLock::acquire(find_dirs()?).await?;
    init_log(&lock.dirs().daemon_log())?;
    let (bangerd, build) = own_program()?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), %build, pid = std::process::id(), "bangerd is starting");
    let engine = Engine::open(lock, programs(bangerd)).await?;
    let socket = Socket::bind(engine.dirs().socket()).map_err(io_error("listen on its socket"))?;
    engine.warm_up();
    let proxy = start_proxy(&engine).await;
    report(&json!({ "ready": true }));
    serve(Daemon::new(engine, build, proxy), socket).await
}

/// Raises the limit of open files as far as this process may: each connection to a published port needs two.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum.map_or(Some(MAX_DESCRIPTORS), |max| Some(max.min(MAX_DESCRIPTORS))),
        ..limit
    };
    if limit.current < raised.current
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::debug!(%error, "the limit of open files stays");
    }
}

/// Starts the reverse proxy, and returns its state. Without it, the daemon works.
async fn start_proxy(engine: &Engine) -> Option<ProxyStatus> {
    let port = engine.proxy_port().unwrap_or_else(|error| {
        tracing::warn!(%error, "the reverse proxy is off: the configuration is invalid");
        None
    });
    let proxy = Proxy::bind(port?).await;
    let status = proxy.status();
    proxy.start(engine);
    Some(status)
}

/// Returns banger's directories, from this process's environment.
pub(crate) fn find_dirs() -> Result<Dirs, ApiError> {
    Dirs::find(|name| std::env::var_os(name).map(PathBuf::from))
        .map_err(|error| ApiError::new(ErrorKind::Invalid, error.to_string()))
}

/// Returns the paths of the programs that belong to this one.
pub(crate) fn programs(bangerd: PathBuf) -> Programs {
    let agent = bangerd.with_file_name("banger-agent");
    Programs { bangerd, agent }
}

/// Appends lines of JSON to the log at `path`.
fn init_log(path: &Path) -> Result<(), ApiError> {
    let log = RotatingLog::open(path, LOG_MAX).map_err(io_error("open the log"))?;
    let filter = std::env::var(Variable::LOG.name).ok().and_then(|text| text.parse().ok());
    let filter = filter.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let lines = tracing_subscriber::fmt::layer().json().with_writer(std::sync::Mutex::new(log));
    // Fails only when there is a subscriber already; there is none in a fresh process.
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
    Ok(())
}

/// Returns this program's path and build id. Must run at the start, because the file may be replaced later.
pub(crate) fn own_program() -> Result<(PathBuf, ProgramId), ApiError> {
    let path = std::env::current_exe().map_err(io_error("find its own executable"))?;
    let meta = fs::metadata(&path).map_err(io_error("stat its own executable"))?;
    let modified_ns = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
    Ok((path, ProgramId { device: meta.dev(), inode: meta.ino(), size: meta.size(), modified_ns }))
}

/// Prints one line for the process that started the daemon, then redirects standard output to /dev/null.
fn report(message: &serde_json::Value) {
    // That process may have ended.
    let _ = writeln!(io::stdout(), "{message}");
    if let Ok(null) = OpenOptions::new().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(null);
    }
}

pub(crate) fn io_error(action: &'static str) -> impl FnOnce(io::Error) -> ApiError {
    move |error| ApiError::new(ErrorKind::Io, format!("bangerd cannot {action}: {error}"))
}
