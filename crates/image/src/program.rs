//! Runs host programs with a clean environment and a timeout, and leaves no processes behind.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use banger_api::is_hidden;
use banger_sys::{
    confine::{Confinement, confine, detach},
    find_program,
};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::error::IoContext;
use crate::{FailureKind, ImageError, Progress};

/// Number of standard error lines kept.
const MAX_LINES: usize = 12;

/// Maximum length of such a line, in bytes.
const MAX_LINE: u64 = 1000;

/// Interval between checks for cancellation and timeout.
const POLL: Duration = Duration::from_millis(50);

/// Time for a program to clean up (mounts, temporary directories) before it is killed.
const GRACE: Duration = Duration::from_secs(10);

/// Environment variables passed on to programs that use the network: the proxy settings.
const PASSED_VARIABLES: [&str; 6] =
    ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];

/// What a program may do.
pub(crate) enum Rights {
    /// Only this.
    Confined(Confinement),
    /// Everything that this user may: it uses privileges to create users and mounts of its own.
    User,
}

/// A program to run.
pub(crate) struct HostCommand {
    name: &'static str,
    command: Command,
    rights: Rights,
    limit: Duration,
    /// Maximum exit status that counts as success.
    max_status: i32,
}

/// Returns the path of the program `name`.
pub(crate) fn find(name: &'static str) -> Result<PathBuf, ImageError> {
    find_program(name).ok_or(ImageError::MissingProgram { program: name })
}

impl HostCommand {
    /// Creates a command for the program `name` without arguments or environment; `limit` is its timeout.
    pub(crate) fn new(name: &'static str, limit: Duration, rights: Rights) -> Result<Self, ImageError> {
        let mut command = Command::new(find(name)?);
        command.env_clear().env("LC_ALL", "C.UTF-8");
        Ok(Self { name, command, rights, limit, max_status: 0 })
    }

    /// Adds the environment of a program that runs others and uses the network.
    pub(crate) fn with_network(mut self) -> Self {
        self.command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        let proxies = PASSED_VARIABLES.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        self.command.envs(proxies);
        self
    }

    /// Accepts exit statuses up to `max_status` as success.
    pub(crate) fn accept(mut self, max_status: i32) -> Self {
        self.max_status = max_status;
        self
    }

    /// Returns the command, for adding arguments.
    pub(crate) fn command(&mut self) -> &mut Command {
        &mut self.command
    }

    /// Runs the program to its end. `consume` reads its output meanwhile; `progress` logs its standard error.
    ///
    /// # Errors
    /// Returns an error if the program was cancelled, timed out or failed; else the error of `consume`.
    pub(crate) fn run<T>(
        mut self,
        progress: &dyn Progress,
        consume: impl FnOnce(ChildStdout) -> Result<T, ImageError>,
    ) -> Result<T, ImageError> {
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let path = PathBuf::from(self.command.get_program());
        match &self.rights {
            Rights::Confined(rights) => {
                confine(&mut self.command, rights, Vec::new()).during("confine", &path)?
            }
            Rights::User => detach(&mut self.command, Vec::new()),
        }
        let mut child = self.command.spawn().during("run", &path)?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            // Both are piped, see above.
            return Err(ImageError::Io { operation: "run", path, source: std::io::ErrorKind::Other.into() });
        };
        let group = Pid::from_child(&child);
        let (done, done_receiver) = channel();
        thread::scope(|scope| {
            let lines = scope.spawn(move || follow(stderr, progress));
            let limit = self.limit;
            let watch = scope.spawn(move || watch(group, limit, &done_receiver, progress));
            let consumed = consume(stdout);
            if consumed.is_err() {
                // The program may block writing output that is no longer read.
                let _ = kill_process_group(group, Signal::TERM);
            }
            let status = reap(&mut child, group, || {
                drop(done);
                watch.join().unwrap_or(false)
            });
            let output = lines.join().unwrap_or_default();
            let (status, expired) = status.during("wait for", &path)?;
            let succeeded = status.code().is_some_and(|code| (0..=self.max_status).contains(&code));
            if progress.cancelled() {
                return Err(ImageError::Cancelled);
            }
            if expired {
                return Err(ImageError::ProgramTimeout { program: self.name, limit: self.limit, output });
            }
            match consumed {
                // A failed program's incomplete output is a consequence, not the reason.
                Err(error) if succeeded || error.kind() != FailureKind::Invalid => Err(error),
                Ok(result) if succeeded => Ok(result),
                _ => Err(ImageError::Program { program: self.name, status: status.to_string(), output }),
            }
        })
    }

    /// Runs the program and returns its output, up to 1 MiB.
    pub(crate) fn output(self, progress: &dyn Progress) -> Result<String, ImageError> {
        let name = self.name;
        self.run(progress, |mut stdout| {
            let mut bytes = Vec::new();
            stdout
                .by_ref()
                .take(1 << 20)
                .read_to_end(&mut bytes)
                .during("read the output of", name.as_ref())?;
            std::io::copy(&mut stdout, &mut std::io::sink()).during("read the output of", name.as_ref())?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        })
    }
}

/// Waits for the child's end, stops the watch, and kills processes that the child left running.
///
/// The child stays a zombie until then, so its process group id cannot be reused.
fn reap(child: &mut Child, group: Pid, stop: impl FnOnce() -> bool) -> std::io::Result<(ExitStatus, bool)> {
    let mut waited = Err(rustix::io::Errno::INTR);
    while waited == Err(rustix::io::Errno::INTR) {
        waited = waitid(WaitId::Pid(group), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).map(|_| ());
    }
    let expired = stop();
    let _ = kill_process_group(group, Signal::KILL);
    Ok((child.wait()?, expired))
}

/// Ends the group on cancellation or timeout; returns whether it was a timeout.
fn watch(group: Pid, limit: Duration, done_receiver: &Receiver<()>, progress: &dyn Progress) -> bool {
    let started = Instant::now();
    let mut terminated: Option<(Instant, bool)> = None;
    while done_receiver.recv_timeout(POLL) == Err(RecvTimeoutError::Timeout) {
        // The group may have ended already; then the signals have no effect.
        match terminated {
            None if progress.cancelled() || started.elapsed() > limit => {
                terminated = Some((Instant::now(), !progress.cancelled()));
                let _ = kill_process_group(group, Signal::TERM);
            }
            Some((at, _)) if at.elapsed() > GRACE => {
                let _ = kill_process_group(group, Signal::KILL);
            }
            _ => {}
        }
    }
    terminated.is_some_and(|(_, expired)| expired)
}

/// Logs lines as they arrive, and returns the last ones.
fn follow(stderr: impl Read, progress: &dyn Progress) -> Vec<String> {
    let mut input = BufReader::new(stderr);
    let mut last_lines = VecDeque::with_capacity(MAX_LINES + 1);
    let mut bytes = Vec::new();
    while let Ok(1..) = input.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes) {
        let line = String::from_utf8_lossy(&bytes);
        let line: String = line.trim().chars().filter(|c| !is_hidden(*c)).collect();
        bytes.clear();
        if !line.is_empty() {
            progress.log(&line);
            last_lines.push_back(line);
            if last_lines.len() > MAX_LINES {
                last_lines.pop_front();
            }
        }
    }
    last_lines.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Silent;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn shell(script: &str, limit: u64) -> HostCommand {
        let mut program =
            HostCommand::new("sh", Duration::from_secs(limit), Rights::User).unwrap().with_network();
        program.command().arg("-c").arg(script);
        program
    }

    #[test]
    fn output_and_failures_are_returned() {
        assert_eq!(shell("echo hello; echo x >&2", 10).output(&Silent).unwrap(), "hello\n");
        let error = shell("seq 100 >&2; exit 3", 10).output(&Silent).unwrap_err();
        let ImageError::Program { output, status, .. } = &error else { panic!("{error:?}") };
        assert!(output.last().unwrap() == "100" && output.len() == MAX_LINES && status.contains('3'));
        assert!(error.to_string().ends_with("99; 100"), "{error}");
        let error =
            shell("for i in 1 2 3 4 5; do printf %900d 0 >&2; echo >&2; done; echo why >&2; exit 1", 10);
        let error = error.output(&Silent).unwrap_err().to_string();
        assert!(error.ends_with("0; why") && error.len() < 3000, "{error}");
        let missing = HostCommand::new("no-such-program", GRACE, Rights::User).err().unwrap();
        assert_eq!(missing.to_string(), "the program no-such-program is not installed");
    }

    #[test]
    fn a_timeout_or_exit_kills_the_whole_process_group() {
        let started = Instant::now();
        let slow = shell("sleep 1000 & sleep 1000; wait", 1).output(&Silent).unwrap_err();
        assert!(matches!(slow, ImageError::ProgramTimeout { .. }), "{slow:?}");
        assert_eq!(shell("sleep 1000 >&2 & echo gone", 10).output(&Silent).unwrap(), "gone\n");
        assert!(started.elapsed() < Duration::from_secs(15));
    }

    #[test]
    fn cancellation_lets_the_program_clean_up() {
        struct CancelLater(Instant, AtomicBool);
        impl Progress for CancelLater {
            fn stage(&self, _: &str) {}
            fn bytes(&self, _: u64, _: Option<u64>) {}
            fn log(&self, line: &str) {
                self.1.store(line == "cleaned up", Ordering::Relaxed);
            }
            fn cancelled(&self) -> bool {
                self.0.elapsed() > Duration::from_millis(300)
            }
        }
        let progress = CancelLater(Instant::now(), AtomicBool::new(false));
        let script = "trap 'echo cleaned up >&2; exit 1' TERM; sleep 1000 & wait";
        assert!(matches!(shell(script, 100).output(&progress), Err(ImageError::Cancelled)));
        assert!(progress.0.elapsed() < Duration::from_secs(5));
        assert!(progress.1.load(Ordering::Relaxed), "the program cleaned up");
    }
}
