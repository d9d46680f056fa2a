//! The `git` program: where it is, what of the environment it sees, and how long it and its output may be.

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

/// How long git may take. Packing the recent history of the largest repositories takes minutes.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// Most bytes of output: the names of some million files.
const MAX_OUTPUT: usize = 1 << 30;

/// Most of what it says on standard error.
const MAX_STDERR: u64 = 16 << 10;

/// What of the environment reaches git. All that could make it look elsewhere or run something is left out.
const KEPT: &[&str] = &["PATH", "HOME", "XDG_CONFIG_HOME", "TMPDIR", "USER", "LOGNAME"];

/// What else of it reaches a program of ours that git runs.
pub(crate) fn is_ours(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with("XDG_") || name.starts_with("BANGER_"))
}

/// Why git did not do what it was to do.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// It is not installed.
    #[error("there is no program `git` in any folder of PATH")]
    Missing,
    /// It could not be run, or talked to.
    #[error("cannot run git {what}: {source}")]
    Run {
        /// The command.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// It ended with an error.
    #[error("git {what} failed: {stderr}")]
    Failed {
        /// The command.
        what: String,
        /// What it said.
        stderr: String,
    },
    /// It took too long.
    #[error("git {what} took longer than {} s", LIMIT.as_secs())]
    TimedOut {
        /// The command.
        what: String,
    },
    /// It said something that makes no sense.
    #[error("git {what} said what makes no sense: {why}")]
    Odd {
        /// The command.
        what: String,
        /// What is wrong with it.
        why: String,
    },
}

/// The program.
#[derive(Debug, Clone)]
pub struct Git {
    program: PathBuf,
}

impl Git {
    /// Finds it.
    ///
    /// # Errors
    /// `Missing`.
    pub fn find() -> Result<Self, GitError> {
        let path = env::var_os("PATH").unwrap_or_default();
        // An empty or relative folder of PATH is wherever one happens to be, such as in a hostile repository.
        let mut programs =
            env::split_paths(&path).filter(|folder| folder.is_absolute()).map(|folder| folder.join("git"));
        programs.find(|program| is_program(program)).map(|program| Self { program }).ok_or(GitError::Missing)
    }

    /// A command of git's, with what is needed of the environment and no question asked.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear();
        for name in KEPT {
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

/// Runs `command` with `input` and returns what it writes.
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
                // What it does not want, it says so itself.
                let _ = stdin.write_all(input);
            }
        });
        let stderr = scope.spawn(move || heard(stderr));
        let output = output(&mut child, &what);
        if output.is_err() {
            // It may have ended just now.
            let _ = child.kill();
        }
        let status = child.wait();
        let stderr = stderr.join().unwrap_or_default();
        let (output, status) = (output?, status.map_err(failed)?);
        if status.success() { Ok(output) } else { Err(GitError::Failed { what: what.clone(), stderr }) }
    })
}

/// All that `child` writes, if that ends in time.
fn output(child: &mut Child, what: &str) -> Result<Vec<u8>, GitError> {
    let deadline = Instant::now() + LIMIT;
    let failed = |source| GitError::Run { what: what.to_owned(), source };
    let mut stdout = child.stdout.take().ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
    let (mut all, mut part) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap_or_default();
        let ready = poll(&mut [PollFd::new(&stdout, PollFlags::IN)], Some(&left));
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
            return Err(odd(what, "more than there can be"));
        }
    }
}

/// What a program says on standard error, on one line.
pub(crate) fn heard(stderr: Option<impl Read>) -> String {
    let mut said = Vec::new();
    if let Some(mut stderr) = stderr {
        // What cannot be read has not been said.
        let _ = stderr.by_ref().take(MAX_STDERR).read_to_end(&mut said);
        let _ = io::copy(&mut stderr, &mut io::sink());
    }
    let said = String::from_utf8_lossy(&said);
    said.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

/// The first argument that is a command.
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

pub(crate) fn odd(what: &str, why: impl Into<String>) -> GitError {
    GitError::Odd { what: what.to_owned(), why: why.into() }
}

/// `git cat-file --batch`: asked for one object after the other.
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
    /// Begins, with a `command` that ends in `cat-file --batch`.
    pub(crate) fn begin(mut command: Command) -> Result<Self, GitError> {
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

    /// Asks for the object `id`; its content is what [`content`](Self::content) then reads.
    pub(crate) fn ask(&mut self, id: &str) -> Result<ObjectHeader, GitError> {
        let failed = |source| GitError::Run { what: "cat-file".to_owned(), source };
        let stdin = self.stdin.as_mut().ok_or_else(|| odd("cat-file", "it has ended"))?;
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
                size: size.parse().map_err(|_| odd("cat-file", "a size too large"))?,
            }),
            _ => Err(odd("cat-file", format!("object {id}: {}", line.trim()))),
        }
    }

    /// The content of the object asked for last, of `size` bytes.
    pub(crate) fn content(&mut self, size: u64) -> BlobReader<'_> {
        BlobReader { objects: self, left: size, ended: false }
    }

    /// All of it.
    pub(crate) fn bytes(&mut self, header: &ObjectHeader) -> Result<Vec<u8>, GitError> {
        let mut bytes = Vec::new();
        let read = self.content(header.size).read_to_end(&mut bytes);
        read.map_err(|source| GitError::Run { what: "cat-file".to_owned(), source })?;
        Ok(bytes)
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        // By this it ends, whatever it is at.
        self.stdin = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a blob's bytes.
#[derive(Debug)]
pub(crate) struct BlobReader<'a> {
    objects: &'a mut Objects,
    left: u64,
    ended: bool,
}

impl Read for BlobReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            if !self.ended {
                self.ended = true;
                self.objects.stdout.read_exact(&mut [0])?;
            }
            return Ok(0);
        }
        let count = self.objects.stdout.by_ref().take(self.left).read(buffer)?;
        if count == 0 && !buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// All of a file; `None` when there is none.
pub(crate) fn read_file(path: &Path) -> io::Result<Option<Vec<u8>>> {
    // A pipe that a hostile repository has there is not waited for.
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
