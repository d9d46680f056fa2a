//! From the first instruction to the first request: folders, the lock, the log, the store, the socket; and the word
//! to whoever started the daemon that it is there, or why it is not.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use banger_api::{ApiError, Dirs, ErrorKind, ProgramId, Remedy, config::Variable};
use banger_engine::{Engine, Programs, Rotating};
use serde_json::json;
use tokio::net::UnixListener;
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::{daemon::Daemon, serve::serve};

/// How long to wait for another daemon to release the lock. One that is going down has 20 s for undoing and 5 s for its
/// last answers; its end releases the lock at once.
const LOCK: Duration = Duration::from_secs(120);

/// Most bytes of the log that are kept.
const LOG_MAX: u64 = 8 << 20;

/// Runs the daemon until it is told to stop.
pub(crate) fn run() -> ExitCode {
    banger_sys::give_back_early();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = runtime.map_err(io("start")).and_then(|runtime| {
        let result = runtime.block_on(run_async());
        // Long synchronous work that was cancelled may still be looking at its progress.
        runtime.shutdown_background();
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(kind = %error.kind, message = %error.message, "bangerd cannot go on");
            report(&json!({ "error": error }));
            ExitCode::FAILURE
        }
    }
}

async fn run_async() -> Result<(), ApiError> {
    // A session of its own: closing the terminal it was started from is not meant for it. Fails only where that is so.
    let _ = rustix::process::setsid();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let dirs = find_dirs()?;
    banger_engine::private_dir(&dirs.state)?;
    banger_engine::private_dir(&dirs.runtime)?;
    let _lock = lock(&dirs.runtime.join("bangerd.lock")).await?;
    log_to(&dirs.daemon_log())?;
    let (bangerd, build) = own_program()?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), %build, pid = std::process::id(), "bangerd starts");
    let engine = Engine::open(dirs.clone(), programs(bangerd)).await?;
    let listener = listen(&dirs.socket())?;
    engine.warm_up();
    report(&json!({ "ready": true }));
    serve(Daemon::new(engine, build), listener).await
}

/// banger's folders, by this process's environment.
pub(crate) fn find_dirs() -> Result<Dirs, ApiError> {
    let uid = rustix::process::getuid().as_raw();
    Dirs::find(|name| std::env::var_os(name).map(PathBuf::from), uid)
        .map_err(|error| ApiError::new(ErrorKind::Invalid, error.to_string()))
}

/// The programs that belong to this one.
pub(crate) fn programs(bangerd: PathBuf) -> Programs {
    let agent = bangerd.with_file_name("banger-agent");
    Programs { bangerd, agent }
}

/// Takes the lock that keeps a second daemon from serving the same folders. One that is going down is waited for.
async fn lock(path: &Path) -> Result<File, ApiError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(io("open the lock"))?;
    let locked = tokio::task::spawn_blocking(move || file.lock().map(|()| file));
    match tokio::time::timeout(LOCK, locked).await {
        Ok(Ok(locked)) => locked.map_err(io("lock")),
        Ok(Err(error)) => Err(ApiError::new(ErrorKind::Internal, error.to_string())),
        Err(_) => Err(ApiError::new(ErrorKind::Busy, format!("another bangerd holds {}", path.display()))
            .remedy(Remedy::StopOtherDaemon)),
    }
}

/// Logs lines of JSON to `path`, which goes on where it ended.
fn log_to(path: &Path) -> Result<(), ApiError> {
    let log = Rotating::open(path, LOG_MAX).map_err(io("open the log"))?;
    let filter = std::env::var(Variable::LOG.name).ok().and_then(|text| text.parse().ok());
    let filter = filter.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let lines = tracing_subscriber::fmt::layer().json().with_writer(std::sync::Mutex::new(log));
    // Fails only when there is a subscriber already; there is none in a fresh process.
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
    Ok(())
}

/// This program's path, and which build it is. Told at the start: later the file may be another.
pub(crate) fn own_program() -> Result<(PathBuf, ProgramId), ApiError> {
    let path = std::env::current_exe().map_err(io("find its own program"))?;
    let meta = fs::metadata(&path).map_err(io("look at its own program"))?;
    let modified_ns = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
    Ok((path, ProgramId { device: meta.dev(), inode: meta.ino(), size: meta.size(), modified_ns }))
}

/// Listens at `path`; the lock says that a socket there is a dead daemon's.
fn listen(path: &Path) -> Result<UnixListener, ApiError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io("remove the old socket")(error));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(io("listen on its socket"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(io("close its socket to others"))?;
    Ok(listener)
}

/// One line to whoever started the daemon, who then goes on; standard output is nothing more than that.
fn report(word: &serde_json::Value) {
    // Nobody may be there any more, or it was started by hand.
    let _ = writeln!(io::stdout(), "{word}");
    if let Ok(null) = OpenOptions::new().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(null);
    }
}

pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> ApiError {
    move |error| ApiError::new(ErrorKind::Io, format!("bangerd cannot {what}: {error}"))
}
