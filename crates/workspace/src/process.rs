//! A running git. No call waits longer than its time limit, or after a cancellation, even if git's pipes stay open.
//!
//! git leads a process group of its own, so that its children end with it: a remote helper, for example, may keep the
//! pipes open after git has exited. The terminal's Ctrl-C does not reach that group; [`Cancel`] does.
//!
//! If SIGKILL ends this process, git ends soon too: it reads the end of its input, or fails to write its output. Only a
//! fetch may wait for the guest, at most until the VM stops, and a git that opens a pipe in a hostile repository may
//! wait. A parent death signal would end these too, but it is sent when the thread that has started git ends, which may
//! be earlier.

use std::{
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::{Errno, ioctl_fionbio},
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open},
};

use crate::{
    budget::ResourceLimits,
    git_error::{GitError, unexpected_output},
};

/// Maximum size of the output, in bytes: the names of some million files.
pub(crate) const MAX_OUTPUT: usize = 1 << 30;

/// Maximum size of the text kept from standard error, in bytes.
const MAX_STDERR: usize = 16 << 10;

/// Time that git has to remove its lock files before it is killed.
pub(crate) const GRACE: Duration = Duration::from_secs(2);

/// Cancels the git commands of every [`Git`](crate::Git) that has a clone of it: running ones end, later ones fail.
#[derive(Debug, Clone)]
pub struct Cancel(Arc<OwnedFd>);

impl Cancel {
    /// Creates a handle that cancels nothing yet.
    ///
    /// # Errors
    /// Returns an error if this process has too many open files.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    /// Cancels; there is no way back.
    pub fn cancel(&self) {
        // The only error is an overflow of the counter: it was cancelled before.
        let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }
}

/// How long a git command may take.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Maximum duration of a command that runs to its end, and of each read and write of an interactive one.
    pub(crate) time: Duration,
    pub(crate) cancel: Option<Cancel>,
    /// Time that git has to end by itself before it is killed.
    pub(crate) grace: Duration,
    /// Maximum size of the output of a command that runs to its end, in bytes.
    pub(crate) output: usize,
    /// Limits of git itself, if it reads a guest's data.
    pub(crate) resources: Option<ResourceLimits>,
}

/// A running git.
#[derive(Debug)]
pub(crate) struct Process {
    /// The git command, for errors.
    what: String,
    limits: Limits,
    child: Child,
    /// Readable once git has exited.
    exited: OwnedFd,
    /// Whether git has been reaped; its process group id may be another's since.
    reaped: bool,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    /// The beginning of its standard error.
    message: Vec<u8>,
}

/// What can happen to a running git.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Exited,
    Cancelled,
    HasMessage,
    HasOutput,
    AcceptsInput,
}

impl Process {
    /// Starts `command`, called `what` in errors, which leads a process group. Its standard input and output are set.
    pub(crate) fn start(mut command: Command, what: String, limits: Limits) -> Result<Self, GitError> {
        let mut child = match command.stderr(Stdio::piped()).spawn() {
            Ok(child) => child,
            Err(source) => return Err(GitError::Run { what, source }),
        };
        let limited = limits.resources.map_or(Ok(()), |resources| resources.apply(&child));
        match limited.and_then(|()| watch(&child)) {
            Ok(exited) => {
                let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
                let (reaped, message) = (false, Vec::new());
                Ok(Self { what, limits, child, exited, reaped, stdin, stdout, stderr, message })
            }
            Err(errno) => {
                let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
                let _ = child.wait();
                Err(GitError::Run { what, source: errno.into() })
            }
        }
    }

    /// Sends `input`, and returns the output once git has succeeded.
    pub(crate) fn communicate(mut self, mut input: &[u8]) -> Result<Vec<u8>, GitError> {
        let deadline = self.deadline();
        let (mut output, mut part) = (Vec::new(), vec![0; 64 << 10]);
        loop {
            if input.is_empty() {
                self.stdin = None;
            }
            let events = self.wait(deadline, &[Event::HasOutput, Event::AcceptsInput])?;
            let exited = events.contains(&Event::Exited);
            if events.contains(&Event::AcceptsInput) {
                match self.stdin.as_mut().map_or(Ok(0), |stdin| stdin.write(input)) {
                    Err(error) if is_temporary(&error) && !exited => {}
                    // git reports it if it needed the rest.
                    Err(_) => input = &[],
                    Ok(count) => input = input.get(count..).unwrap_or_default(),
                }
            }
            if !exited && !events.contains(&Event::HasOutput) {
                continue;
            }
            match self.read_now(&mut part, exited)? {
                Some(0) => return self.end_of_process(deadline).map(|()| output),
                Some(count) => output.extend_from_slice(part.get(..count).unwrap_or_default()),
                None => {}
            }
            if output.len() > self.limits.output {
                return Err(unexpected_output(&self.what, "it is too large"));
            }
        }
    }

    /// Reads output into `buffer`. Returns the number of bytes, which is zero at the end.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, GitError> {
        let deadline = self.deadline();
        loop {
            let exited = self.wait(deadline, &[Event::HasOutput])?.contains(&Event::Exited);
            if let Some(count) = self.read_now(buffer, exited)? {
                return Ok(count);
            }
        }
    }

    /// Reads the output that is there. Returns `None` if there is none yet.
    fn read_now(&mut self, buffer: &mut [u8], exited: bool) -> Result<Option<usize>, GitError> {
        match self.stdout.as_mut().map_or(Ok(0), |stdout| stdout.read(buffer)) {
            Ok(count) => Ok(Some(count)),
            // All that git has written was read. A child of git may still hold the pipe.
            Err(error) if is_temporary(&error) => Ok(exited.then_some(0)),
            Err(source) => Err(self.failed(source)),
        }
    }

    /// Writes `bytes` to git's input. If git has exited, returns git's own message.
    fn send(&mut self, mut bytes: &[u8]) -> Result<(), GitError> {
        let deadline = self.deadline();
        while !bytes.is_empty() {
            let exited = self.wait(deadline, &[Event::AcceptsInput])?.contains(&Event::Exited);
            match self.stdin.as_mut().map_or(Ok(0), |stdin| stdin.write(bytes)) {
                Ok(count @ 1..) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(error) if is_temporary(&error) && !exited => {}
                Ok(0) | Err(_) => {
                    self.end_of_process(deadline)?;
                    return Err(self.failed(io::ErrorKind::BrokenPipe.into()));
                }
            }
        }
        Ok(())
    }

    /// Closes the pipes, and waits until git has exited.
    ///
    /// # Errors
    /// Returns git's message if it failed.
    pub(crate) fn finish(mut self) -> Result<(), GitError> {
        let deadline = self.deadline();
        self.end_of_process(deadline)
    }

    fn end_of_process(&mut self, deadline: Instant) -> Result<(), GitError> {
        (self.stdin, self.stdout) = (None, None);
        while !self.wait(deadline, &[])?.contains(&Event::Exited) {}
        self.read_message();
        let status = self.reap().map_err(|source| self.failed(source))?;
        if status.success() {
            return Ok(());
        }
        Err(GitError::Failed { what: self.what.clone(), stderr: one_line(&self.message) })
    }

    /// Returns the time at which an operation that starts now times out.
    fn deadline(&self) -> Instant {
        Instant::now() + self.limits.time
    }

    /// Waits until git has exited or one of `expected` happens. Ends git if that takes too long or is cancelled.
    fn wait(&mut self, deadline: Instant, expected: &[Event]) -> Result<Vec<Event>, GitError> {
        let result = loop {
            let events = match self.poll(deadline, expected) {
                Ok(events) => events,
                Err(Errno::TIMEDOUT) => {
                    break Err(GitError::TimedOut { what: self.what.clone(), limit: self.limits.time });
                }
                Err(errno) => break Err(self.failed(errno.into())),
            };
            if events.contains(&Event::Cancelled) {
                break Err(GitError::Cancelled { what: self.what.clone() });
            }
            if events.contains(&Event::HasMessage) {
                self.read_message();
            }
            if events.iter().any(|event| *event == Event::Exited || expected.contains(event)) {
                break Ok(events);
            }
        };
        if result.is_err() {
            self.end();
        }
        result
    }

    /// Returns what has happened, once anything has.
    fn poll(&self, deadline: Instant, expected: &[Event]) -> Result<Vec<Event>, Errno> {
        let pipes = [
            (Event::HasOutput, self.stdout.as_ref().map(AsFd::as_fd), PollFlags::IN),
            (Event::AcceptsInput, self.stdin.as_ref().map(AsFd::as_fd), PollFlags::OUT),
        ];
        let all = [
            // The first: the output of a git that has exited is complete.
            (Event::Exited, Some(self.exited.as_fd()), PollFlags::IN),
            (Event::Cancelled, self.limits.cancel.as_ref().map(|cancel| cancel.0.as_fd()), PollFlags::IN),
            (Event::HasMessage, self.stderr.as_ref().map(AsFd::as_fd), PollFlags::IN),
        ];
        let pipes = pipes.into_iter().filter(|(event, ..)| expected.contains(event));
        let watched: Vec<_> =
            all.into_iter().chain(pipes).filter_map(|(event, fd, flags)| Some((event, fd?, flags))).collect();
        let mut fds: Vec<_> =
            watched.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        loop {
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                return Err(Errno::TIMEDOUT);
            }
            match poll(&mut fds, Some(&Timespec::try_from(remaining).unwrap_or_default())) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => break,
                Err(errno) => return Err(errno),
            }
        }
        let happened = watched.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        Ok(happened.map(|((event, ..), _)| *event).collect())
    }

    /// Reads what is in the pipe of standard error.
    fn read_message(&mut self) {
        let mut part = [0; MAX_STDERR];
        match self.stderr.as_mut().map_or(Ok(0), |stderr| stderr.read(&mut part)) {
            Ok(count @ 1..) => {
                let kept = count.min(MAX_STDERR.saturating_sub(self.message.len()));
                self.message.extend_from_slice(part.get(..kept).unwrap_or_default());
            }
            Err(error) if is_temporary(&error) => {}
            Ok(0) | Err(_) => self.stderr = None,
        }
    }

    /// Ends git and its children.
    fn end(&mut self) {
        if self.reaped {
            return;
        }
        if !self.limits.grace.is_zero() {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::TERM);
            let grace = Timespec::try_from(self.limits.grace).unwrap_or_default();
            // An interrupted wait is only shorter.
            let _ = poll(&mut [PollFd::new(&self.exited, PollFlags::IN)], Some(&grace));
        }
        let _ = self.reap();
    }

    /// Kills git's process group, and returns git's exit status.
    fn reap(&mut self) -> io::Result<ExitStatus> {
        if !self.reaped {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            self.reaped = true;
        }
        self.child.wait()
    }

    fn failed(&self, source: io::Error) -> GitError {
        GitError::Run { what: self.what.clone(), source }
    }
}

/// The errors of reading and writing hold a [`GitError`].
impl Read for Process {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.receive(buffer).map_err(io::Error::other)
    }
}

impl Write for Process {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.send(bytes).map(|()| bytes.len()).map_err(io::Error::other)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        (self.stdin, self.stdout) = (None, None);
        self.end();
    }
}

/// Returns a descriptor that is readable once `child` has exited, and makes its pipes non-blocking.
fn watch(child: &Child) -> Result<OwnedFd, Errno> {
    let pipes = [
        child.stdin.as_ref().map(AsFd::as_fd),
        child.stdout.as_ref().map(AsFd::as_fd),
        child.stderr.as_ref().map(AsFd::as_fd),
    ];
    for pipe in pipes.into_iter().flatten() {
        ioctl_fionbio(pipe, true)?;
    }
    pidfd_open(Pid::from_child(child), PidfdFlags::empty())
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Returns git's message as one line.
fn one_line(message: &[u8]) -> String {
    let text = String::from_utf8_lossy(message);
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        os::unix::{fs::OpenOptionsExt, process::CommandExt},
        path::PathBuf,
        thread,
    };

    use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

    use super::*;

    /// Longer than any test.
    const LONG: Duration = Duration::from_secs(600);

    /// Programs in place of git, in a directory with a pipe `alive`, which every process of theirs holds open.
    struct Fake {
        dir: tempfile::TempDir,
        alive: File,
    }

    impl Fake {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("alive");
            mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
            let flags = OFlags::NONBLOCK.bits().cast_signed();
            let alive = File::options().read(true).custom_flags(flags).open(path).unwrap();
            Self { dir, alive }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn start(&self, script: &str, time: Duration, cancel: Option<&Cancel>) -> Process {
            let mut command = Command::new("sh");
            let script = format!("exec 9>alive; echo started >&9; {script}");
            command.arg("-c").arg(script).current_dir(self.dir.path());
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
            let cancel = cancel.cloned();
            let limits = Limits { time, cancel, grace: GRACE, output: MAX_OUTPUT, resources: None };
            Process::start(command, "fake".to_owned(), limits).unwrap()
        }

        /// Waits until a process has started.
        fn wait_until_started(&self) {
            poll(&mut [PollFd::new(&self.alive, PollFlags::IN)], None).unwrap();
        }

        /// Waits until no process of the program is left.
        fn wait_until_gone(mut self) {
            ioctl_fionbio(&self.alive, false).unwrap();
            let mut text = String::new();
            self.alive.read_to_string(&mut text).unwrap();
            assert_eq!(text, "started\n");
        }
    }

    /// Children that keep all pipes open and ignore signals.
    const CHILD: &str = "(trap '' TERM INT HUP; sleep 1000) & ";

    #[test]
    fn output_and_messages_are_returned() {
        let fake = Fake::new();
        let input = vec![b'x'; 1 << 20];
        let output = fake.start("cat", LONG, None).communicate(&input).unwrap();
        assert!(output == input);
        // What the program does not read is no error.
        assert_eq!(fake.start("echo ok", LONG, None).communicate(&input).unwrap(), b"ok\n");
        let error =
            fake.start("echo ' no '>&2; echo way>&2; exit 3", LONG, None).communicate(&[]).unwrap_err();
        assert_eq!(error.to_string(), "git fake failed: no; way");
        let error = fake.start("yes | head -c 9999999 >&2; exit 3", LONG, None).communicate(&[]).unwrap_err();
        assert!(matches!(error, GitError::Failed { stderr, .. } if stderr.len() <= 2 * MAX_STDERR));
    }

    #[test]
    fn a_time_limit_ends_every_process_that_holds_a_pipe() {
        let short = Duration::from_millis(300);
        for script in ["sleep 1000", "exec >&- 2>&-; sleep 1000"] {
            let fake = Fake::new();
            let error = fake.start(&format!("{CHILD}{script}"), short, None).communicate(&[]).unwrap_err();
            assert!(matches!(error, GitError::TimedOut { limit, .. } if limit == short), "{error}");
            fake.wait_until_gone();
            let fake = Fake::new();
            let mut process = fake.start(&format!("{CHILD}{script}"), short, None);
            let error = process.read(&mut [0]).unwrap_err();
            assert!(matches!(GitError::from_io("", error), GitError::TimedOut { .. }));
            fake.wait_until_gone();
            let fake = Fake::new();
            let mut process = fake.start(&format!("{CHILD}{script}"), short, None);
            let error = process.write_all(&vec![0; 1 << 20]).unwrap_err();
            assert!(matches!(GitError::from_io("", error), GitError::TimedOut { .. }));
            fake.wait_until_gone();
        }
        // Even if it never waits.
        let error = Fake::new().start("yes >&2 & yes", short, None).communicate(&[]).unwrap_err();
        assert!(matches!(error, GitError::TimedOut { .. } | GitError::UnexpectedOutput { .. }));
    }

    #[test]
    fn a_child_that_outlives_git_delays_nothing() {
        for end in ["", "exit 3"] {
            let fake = Fake::new();
            let result = fake.start(&format!("echo ok; {CHILD}{end}"), LONG, None).communicate(&[]);
            assert_eq!(result.is_ok(), end.is_empty());
            fake.wait_until_gone();
            let fake = Fake::new();
            let mut process = fake.start(&format!("echo ok; {CHILD}{end}"), LONG, None);
            let mut output = String::new();
            process.read_to_string(&mut output).unwrap();
            assert_eq!(output, "ok\n");
            assert!(process.write_all(&vec![0; 1 << 20]).is_err());
            fake.wait_until_gone();
        }
    }

    #[test]
    fn cancelling_ends_running_commands_and_later_ones() {
        let fake = Fake::new();
        let cancel = Cancel::new().unwrap();
        let lock = fake.path("lock");
        let script = format!("{CHILD} touch lock; trap 'rm lock; exit 1' TERM; echo >ready; wait");
        thread::scope(|scope| {
            let process = fake.start(&script, LONG, Some(&cancel));
            let running = scope.spawn(|| process.communicate(&[]));
            fake.wait_until_started();
            while !fake.path("ready").exists() {
                thread::yield_now();
            }
            cancel.clone().cancel();
            assert!(matches!(running.join().unwrap(), Err(GitError::Cancelled { .. })));
        });
        // It had the time to remove its lock file.
        assert!(!lock.exists());
        fake.wait_until_gone();
        let error = Fake::new().start("sleep 1000", LONG, Some(&cancel)).communicate(&[]).unwrap_err();
        assert_eq!(error.to_string(), "git fake was cancelled");
    }

    #[test]
    fn dropping_a_command_ends_it() {
        let fake = Fake::new();
        let process = fake.start(&format!("{CHILD}trap '' TERM; wait"), LONG, None);
        fake.wait_until_started();
        drop(process);
        fake.wait_until_gone();
    }
}
