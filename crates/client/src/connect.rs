//! Finding the daemon, or starting it.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use banger_api::{ApiError, Dirs, ErrorKind, LockRecord, ProgramId, Remedy, config::Variable};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::OFlags,
    process::{Pid, PidfdFlags, getuid, pidfd_open},
};
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::UnixStream,
    process::Command,
    time::timeout,
};

/// Timeout for the daemon to start or to end. It may wait up to 120 s for a previous daemon to end, and up to 30 s
/// for the VMMs that one left. The exit of a failing daemon is detected at once.
const START_TIMEOUT: Duration = Duration::from_secs(180);

/// Maximum length of the daemon's first line, in bytes.
const MAX_FIRST_LINE: u64 = 64 << 10;

/// A random number for each boot of the host (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The daemon's directories, and the path of its program.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) dirs: Dirs,
    pub(crate) program: PathBuf,
}

/// The exclusive right to start the daemon, until this value is dropped.
#[derive(Debug)]
pub(crate) struct StartLock(#[expect(dead_code, reason = "an open file keeps its lock")] File);

/// The daemon's first line on its standard output.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum FirstLine {
    Ready(bool),
    Error(Box<ApiError>),
}

impl Daemon {
    /// Finds the daemon from this process's environment. The program is `BANGER_BANGERD`, else the one beside
    /// `banger`, else one on `PATH`.
    pub(crate) fn find() -> Result<Self, ApiError> {
        let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let dirs =
            Dirs::find(variable).map_err(|error| ApiError::new(ErrorKind::Invalid, error.to_string()))?;
        let sibling = std::env::current_exe().ok().map(|exe| exe.with_file_name("bangerd"));
        let on_path = || {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).map(|dir| dir.join("bangerd")).find(|path| path.is_file())
        };
        let program =
            variable(Variable::BANGERD.name).or(sibling.filter(|path| path.is_file())).or_else(on_path);
        let program = program.ok_or_else(|| {
            ApiError::new(ErrorKind::MissingProgram, "bangerd is neither beside banger nor on PATH")
                .remedy(Remedy::InstallDaemon)
        })?;
        Ok(Self { dirs, program })
    }

    /// Returns the identity of the program that would be started now.
    pub(crate) fn build(&self) -> Result<ProgramId, ApiError> {
        let meta = fs::metadata(&self.program).map_err(failed("stat", &self.program))?;
        let modified_ns = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
        Ok(ProgramId { device: meta.dev(), inode: meta.ino(), size: meta.size(), modified_ns })
    }

    /// Connects to the running daemon; `None` if none runs.
    pub(crate) async fn connect(&self) -> Result<Option<UnixStream>, ApiError> {
        check_dir(&self.dirs.state)?;
        let dirs = Dirs { runtime: self.runtime()?, ..self.dirs.clone() };
        check_dir(&dirs.runtime)?;
        let socket = dirs.socket();
        match UnixStream::connect(&socket).await {
            Ok(stream) => {
                let uid = getuid().as_raw();
                match stream.peer_cred() {
                    Ok(peer) if peer.uid() == uid || peer.uid() == 0 => Ok(Some(stream)),
                    Ok(_) => Err(ApiError::new(
                        ErrorKind::NotPermitted,
                        format!("the process that listens at {} belongs to another user", socket.display()),
                    )),
                    Err(error) => Err(failed("connect to", &socket)(error)),
                }
            }
            // Nothing listens there, or its path is too long for a socket.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::InvalidInput
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(failed("connect to", &socket)(error)),
        }
    }

    /// Returns the directory of the daemon's sockets: by its record in the store's lock file, else the default.
    fn runtime(&self) -> Result<PathBuf, ApiError> {
        let path = self.dirs.store_lock();
        // Not blocking, and no link: only a file of this user is read.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = match OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(self.dirs.runtime.clone()),
            Err(error) => return Err(failed("open", &path)(error)),
        };
        let meta = file.metadata().map_err(failed("stat", &path))?;
        let problem = match () {
            () if !meta.is_file() => "is not a regular file",
            () if meta.uid() != getuid().as_raw() => "belongs to another user",
            () if meta.mode() & 0o022 != 0 => "can be written by other users",
            () => {
                let mut text = vec![0; LockRecord::MAX];
                let length = file.read_at(&mut text, 0).map_err(failed("read", &path))?;
                let record = LockRecord::parse(text.get(..length).unwrap_or_default(), meta.ino());
                // Those of an earlier boot are gone, and their names may belong to another user now.
                let boot_id = fs::read_to_string(BOOT_ID).map_err(failed("read", Path::new(BOOT_ID)))?;
                let record = record.filter(|record| record.boot_id == boot_id.trim_end());
                return Ok(record.map_or_else(|| self.dirs.runtime.clone(), |record| record.runtime));
            }
        };
        Err(unusable(&path, problem))
    }

    /// Connects to the daemon, and starts it if none runs.
    pub(crate) async fn connect_or_start(&self) -> Result<UnixStream, ApiError> {
        if let Some(stream) = self.connect().await? {
            return Ok(stream);
        }
        let start_lock = self.lock_start().await?;
        self.connect_or_start_locked(&start_lock).await
    }

    /// As [`connect_or_start`](Self::connect_or_start), by a client that has locked the start.
    pub(crate) async fn connect_or_start_locked(&self, _: &StartLock) -> Result<UnixStream, ApiError> {
        if let Some(stream) = self.connect().await? {
            return Ok(stream);
        }
        self.start().await?;
        self.connect().await?.ok_or_else(|| self.start_error("it exited at once"))
    }

    /// Locks the start: two clients must not both start a daemon, nor one stop a daemon that another has just started.
    pub(crate) async fn lock_start(&self) -> Result<StartLock, ApiError> {
        let dir = &self.dirs.state;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("create", dir))?;
        check_dir(dir)?;
        let path = self.dirs.start_lock();
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(failed("open", &path))?;
        let locked = tokio::task::spawn_blocking(move || file.lock().map(|()| file));
        match timeout(START_TIMEOUT, locked).await {
            Ok(Ok(locked)) => locked.map(StartLock).map_err(failed("lock", &path)),
            Ok(Err(error)) => Err(ApiError::new(ErrorKind::Internal, error.to_string())),
            Err(_) => Err(self.start_error("timed out while another banger was starting it")),
        }
    }

    async fn start(&self) -> Result<(), ApiError> {
        let mut command = Command::new(&self.program);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).current_dir("/");
        let mut child = command.spawn().map_err(failed("run", &self.program))?;
        let stdout = child.stdout.take().ok_or_else(|| self.start_error("it has no output"))?;
        let mut line = String::new();
        let mut first_line = BufReader::new(stdout.take(MAX_FIRST_LINE));
        match timeout(START_TIMEOUT, first_line.read_line(&mut line)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(self.start_error(&error.to_string())),
            Err(_) => return Err(self.start_error(&format!("timed out after {} s", START_TIMEOUT.as_secs()))),
        }
        match serde_json::from_str(&line) {
            Ok(FirstLine::Ready(true)) => Ok(()),
            Ok(FirstLine::Error(error)) => Err(*error),
            Ok(FirstLine::Ready(false)) | Err(_) => Err(self.start_error("it exited silently")),
        }
    }

    fn start_error(&self, why: &str) -> ApiError {
        ApiError::new(ErrorKind::Io, format!("bangerd did not start: {why}"))
            .log(self.dirs.daemon_log().display().to_string())
    }
}

/// A daemon's process, identified as the peer of a connection, because its lock may pass to another process at any
/// time.
#[derive(Debug)]
pub(crate) struct DaemonProcess(OwnedFd);

impl DaemonProcess {
    /// Returns the process that listens at the other end of `stream`.
    pub(crate) fn of_peer(stream: &UnixStream) -> Result<Self, ApiError> {
        let open = || -> io::Result<Self> {
            let pid = stream.peer_cred()?.pid().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
            Ok(Self(pidfd_open(pid, PidfdFlags::empty())?))
        };
        open().map_err(Self::wait_error)
    }

    /// Waits until it has ended.
    pub(crate) async fn wait(self) -> Result<(), ApiError> {
        let limit = Timespec { tv_sec: START_TIMEOUT.as_secs().cast_signed(), tv_nsec: 0 };
        let wait = move || poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&limit));
        match tokio::task::spawn_blocking(wait).await {
            Ok(Ok(0)) => Err(ApiError::new(
                ErrorKind::Timeout,
                format!("bangerd did not stop within {} s", START_TIMEOUT.as_secs()),
            )),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Self::wait_error(error.into())),
            Err(error) => Err(ApiError::new(ErrorKind::Internal, error.to_string())),
        }
    }

    fn wait_error(error: io::Error) -> ApiError {
        ApiError::new(ErrorKind::Io, format!("cannot wait for bangerd to exit: {error}"))
    }
}

/// In a shared directory such as `/tmp`, another user may have created a link or directory with this name.
fn check_dir(dir: &Path) -> Result<(), ApiError> {
    let problem = match fs::symlink_metadata(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("stat", dir)(error)),
        Ok(meta) if meta.is_symlink() => "is a symbolic link",
        Ok(meta) if !meta.is_dir() => "is not a directory",
        Ok(meta) if meta.uid() != getuid().as_raw() => "belongs to another user",
        Ok(_) => return Ok(()),
    };
    Err(unusable(dir, problem))
}

fn unusable(path: &Path, problem: &str) -> ApiError {
    let error =
        ApiError::new(ErrorKind::NotPermitted, format!("cannot use {}: it {problem}", path.display()));
    error.remedy(Remedy::ReplaceDirectory)
}

fn failed(action: &str, path: &Path) -> impl FnOnce(io::Error) -> ApiError {
    let message = format!("cannot {action} {}", path.display());
    move |error| {
        let kind = match error.kind() {
            io::ErrorKind::PermissionDenied => ErrorKind::NotPermitted,
            _ => ErrorKind::Io,
        };
        ApiError::new(kind, format!("{message}: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtime_directory_must_not_be_a_link_or_a_file() {
        let dir = tempfile::tempdir().unwrap();
        check_dir(&dir.path().join("missing")).unwrap();
        check_dir(dir.path()).unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("link")).unwrap();
        assert!(check_dir(&dir.path().join("link")).unwrap_err().message.contains("symbolic link"));
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(check_dir(&dir.path().join("file")).unwrap_err().message.contains("not a directory"));
    }
}
