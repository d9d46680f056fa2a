//! Runs the `git` program: finds it, and limits its environment, run time and output.

use std::{
    env,
    ffi::OsStr,
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::OFlags,
};

/// Timeout for git. Packing the recent history of the largest repositories takes minutes.
const TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// Maximum size of the output, in bytes: the names of some million files.
const MAX_OUTPUT: usize = 1 << 30;

/// Maximum size of the text kept from standard error, in bytes.
const MAX_STDERR: u64 = 16 << 10;

/// Environment variables that git inherits. Those that could redirect it or make it run something are left out.
const PASSED_VARIABLES: &[&str] = &["PATH", "HOME", "XDG_CONFIG_HOME", "TMPDIR", "USER", "LOGNAME"];

/// Returns whether a banger program that git runs inherits this variable too.
pub(crate) fn is_banger_variable(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with("XDG_") || name.starts_with("BANGER_"))
}

/// Errors of running git.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// git is not installed.
    #[error("git was not found on PATH")]
    Missing,
    /// git could not be run, or communication with it failed.
    #[error("cannot run git {what}: {source}")]
    Run {
        /// The git command.
        what: String,
        /// The cause.
        source: io::Error,
    },
    /// git exited with an error.
    #[error("git {what} failed: {stderr}")]
    Failed {
        /// The git command.
        what: String,
        /// Its standard error.
        stderr: String,
    },
    /// git timed out.
    #[error("git {what} timed out after {} s", TIMEOUT.as_secs())]
    TimedOut {
        /// The git command.
        what: String,
    },
    /// git's output is malformed.
    #[error("unexpected output of git {what}: {problem}")]
    UnexpectedOutput {
        /// The git command.
        what: String,
        /// The problem.
        problem: String,
    },
}

/// The `git` program.
#[derive(Debug, Clone)]
pub struct Git {
    program: PathBuf,
}

impl Git {
    /// Finds git in `PATH`.
    ///
    /// # Errors
    /// Returns `Missing` if it is not there.
    pub fn find() -> Result<Self, GitError> {
        let path = env::var_os("PATH").unwrap_or_default();
        // Skip empty and relative directories of PATH: they could be in a hostile repository.
        let mut programs = env::split_paths(&path).filter(|dir| dir.is_absolute()).map(|dir| dir.join("git"));
        programs.find(|program| is_program(program)).map(|program| Self { program }).ok_or(GitError::Missing)
    }

    /// Returns a git command with a minimal environment, which never prompts.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear();
        for name in PASSED_VARIABLES {
            if let Some(value) = env::var_os(name) {
                command.env(name, value);
            }
        }
        command
            .envs([
                ("LC_ALL", "C"),
                ("GIT_TERMINAL_PROMPT", "0"),
                ("GIT_OPTIONAL_LOCKS", "0"),
                ("GIT_NO_REPLACE_OBJECTS", "1"),
                ("GIT_NO_LAZY_FETCH", "1"),
                ("GIT_PAGER", "cat"),
            ])
            .args(["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "gc.auto=0"])
            .args(arguments);
        command
    }
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Runs `command` with `input`, and returns its output.
pub(crate) fn run(mut command: Command, input: &[u8]) -> Result<Vec<u8>, GitError> {
    let what = name(&command);
    let failed = |source| GitError::Run { what: what.clone(), source };
    let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
    let mut child =
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(failed)?;
    thread::scope(|scope| {
        let stdin = child.stdin.take();
        let stderr = child.stderr.take();
        scope.spawn(move || {
            if let Some(mut stdin) = stdin {
                // git reports it if it needed this input.
                let _ = stdin.write_all(input);
            }
        });
        let stderr = scope.spawn(move || read_stderr(stderr));
        let output = output(&mut child, &what);
        if output.is_err() {
            // It may have exited already.
            let _ = child.kill();
        }
        let status = child.wait();
        let stderr = stderr.join().unwrap_or_default();
        let (output, status) = (output?, status.map_err(failed)?);
        if status.success() { Ok(output) } else { Err(GitError::Failed { what: what.clone(), stderr }) }
    })
}

/// Reads the output of `child` until it ends or the timeout expires.
fn output(child: &mut Child, what: &str) -> Result<Vec<u8>, GitError> {
    let deadline = Instant::now() + TIMEOUT;
    let failed = |source| GitError::Run { what: what.to_owned(), source };
    let mut stdout = child.stdout.take().ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
    let (mut all, mut part) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let remaining = Timespec::try_from(remaining).unwrap_or_default();
        let ready = poll(&mut [PollFd::new(&stdout, PollFlags::IN)], Some(&remaining));
        match ready {
            Ok(0) => return Err(GitError::TimedOut { what: what.to_owned() }),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(failed(error.into())),
        }
        match stdout.read(&mut part).map_err(failed)? {
            0 => return Ok(all),
            count => all.extend_from_slice(part.get(..count).unwrap_or_default()),
        }
        if all.len() > MAX_OUTPUT {
            return Err(unexpected_output(what, "it is too large"));
        }
    }
}

/// Returns a program's standard error as one line.
pub(crate) fn read_stderr(stderr: Option<impl Read>) -> String {
    let mut text = Vec::new();
    if let Some(mut stderr) = stderr {
        // Report what could be read.
        let _ = stderr.by_ref().take(MAX_STDERR).read_to_end(&mut text);
        let _ = io::copy(&mut stderr, &mut io::sink());
    }
    let text = String::from_utf8_lossy(&text);
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

/// Returns the git command among the arguments.
fn name(command: &Command) -> String {
    let mut arguments = command.get_args().peekable();
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("-c" | "-C") => _ = arguments.next(),
            Some(flag) if flag.starts_with('-') => {}
            _ => return argument.to_string_lossy().into_owned(),
        }
    }
    String::new()
}

pub(crate) fn unexpected_output(what: &str, problem: impl Into<String>) -> GitError {
    GitError::UnexpectedOutput { what: what.to_owned(), problem: problem.into() }
}

/// A running `git cat-file --batch`, which reads objects one by one.
#[derive(Debug)]
pub(crate) struct Objects {
    child: Child,
    stdin: Option<std::process::ChildStdin>,
    stdout: io::BufReader<std::process::ChildStdout>,
}

/// An object's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ObjectHeader {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) size: u64,
}

impl Objects {
    /// Starts `command`, which ends in `cat-file --batch`.
    pub(crate) fn start(mut command: Command) -> Result<Self, GitError> {
        let failed = |source| GitError::Run { what: "cat-file".to_owned(), source };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let stdout = stdout.ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
        Ok(Self { child, stdin, stdout: io::BufReader::with_capacity(64 << 10, stdout) })
    }

    /// Requests the object `id`. [`content`](Self::content) then reads its content.
    pub(crate) fn header(&mut self, id: &str) -> Result<ObjectHeader, GitError> {
        let failed = |source| GitError::Run { what: "cat-file".to_owned(), source };
        let stdin = self.stdin.as_mut().ok_or_else(|| unexpected_output("cat-file", "it has exited"))?;
        stdin.write_all(format!("{id}\n").as_bytes()).map_err(failed)?;
        let mut line = Vec::new();
        // Longer than any header.
        io::BufRead::read_until(&mut self.stdout.by_ref().take(1024), b'\n', &mut line).map_err(failed)?;
        let line = String::from_utf8_lossy(&line);
        let words: Vec<_> = line.split_whitespace().collect();
        match words.as_slice() {
            [id, kind, size] if size.bytes().all(|byte| byte.is_ascii_digit()) => Ok(ObjectHeader {
                id: (*id).to_owned(),
                kind: (*kind).to_owned(),
                size: size.parse().map_err(|_| unexpected_output("cat-file", "an object is too large"))?,
            }),
            _ => Err(unexpected_output("cat-file", format!("object {id}: {}", line.trim()))),
        }
    }

    /// Returns a reader of the requested object's content, of `size` bytes.
    pub(crate) fn content(&mut self, size: u64) -> BlobReader<'_> {
        BlobReader { objects: self, remaining: size, ended: false }
    }

    /// Reads the requested object's whole content.
    pub(crate) fn bytes(&mut self, header: &ObjectHeader) -> Result<Vec<u8>, GitError> {
        let mut bytes = Vec::new();
        let read = self.content(header.size).read_to_end(&mut bytes);
        read.map_err(|source| GitError::Run { what: "cat-file".to_owned(), source })?;
        Ok(bytes)
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        // Closing its input ends it, unless it is busy.
        self.stdin = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads the bytes of an object.
#[derive(Debug)]
pub(crate) struct BlobReader<'a> {
    objects: &'a mut Objects,
    remaining: u64,
    ended: bool,
}

impl Read for BlobReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.remaining == 0 {
            if !self.ended {
                self.ended = true;
                self.objects.stdout.read_exact(&mut [0])?;
            }
            return Ok(0);
        }
        let count = self.objects.stdout.by_ref().take(self.remaining).read(buffer)?;
        if count == 0 && !buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.remaining -= count as u64;
        Ok(count)
    }
}

/// Reads a whole file. Returns `None` if it does not exist.
pub(crate) fn read_file(path: &Path) -> io::Result<Option<Vec<u8>>> {
    // Do not block on a pipe in a hostile repository.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    match File::options().read(true).custom_flags(flags).open(path) {
        Ok(file) => {
            if !file.metadata()?.is_file() {
                return Err(io::Error::other("it is not a file"));
            }
            let mut bytes = Vec::new();
            file.take(MAX_OUTPUT as u64).read_to_end(&mut bytes)?;
            Ok(Some(bytes))
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
