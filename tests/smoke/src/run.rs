//! Running commands and their results.

use std::{
    io::{Read, Write},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// Timeout against hangs, not a measure of speed: a slow machine boots a guest without KVM in a fraction of it.
const TIMEOUT: Duration = Duration::from_secs(240);

/// Interval between checks of a condition without events.
const PAUSE: Duration = Duration::from_millis(200);

/// Longest interval between checks with events: a condition may depend on more than the events report.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// Waits until `holds` returns true, and checks it at intervals. Use it for a guest's state, for which there are no
/// events.
///
/// # Errors
/// Returns an error if a check fails, or after a timeout.
pub fn until(condition: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    while !holds()? {
        ensure!(Instant::now() < deadline, "timed out after {} s: {condition}", TIMEOUT.as_secs());
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// Waits until `holds` returns true, and checks it again whenever a follower of events prints something. `follow`
/// starts a follower, which first prints past events.
///
/// # Errors
/// Returns an error as [`until`] does, or if a follower prints nothing.
pub(crate) fn until_event(
    condition: &str,
    mut holds: impl FnMut() -> Result<bool>,
    follow: impl Fn() -> Result<Running>,
) -> Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    let mut follower = follow()?;
    follower.wait_for_stdout("\n")?;
    while !holds()? {
        ensure!(Instant::now() < deadline, "timed out after {} s: {condition}", TIMEOUT.as_secs());
        if follower.stdout.recv_timeout(MAX_PAUSE) == Err(RecvTimeoutError::Disconnected) {
            // The follower's daemon was killed.
            follower = follow()?;
            follower.wait_for_stdout("\n")?;
        }
    }
    Ok(())
}

/// Returns a program that runs in the namespaces of process `pid`, not yet started.
pub(crate) fn inside(pid: u32, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--target", &pid.to_string(), "--net", "--mount", "--wd=.", "--", program]);
    command
}

/// A running command. Dropping it kills the process.
#[derive(Debug)]
pub struct Running {
    child: Child,
    label: String,
    stdout: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
    seen: String,
}

/// A command that has exited.
#[derive(Debug)]
pub struct Finished {
    /// The command, for messages.
    pub label: String,
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Running {
    /// Starts `command`. Messages call it `label`.
    ///
    /// # Errors
    /// Returns an error if it cannot be started.
    pub fn start(mut command: Command, label: String) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| label.clone())?;
        let stdout = pump(child.stdout.take().context("stdout")?);
        let stderr = pump(child.stderr.take().context("stderr")?);
        Ok(Self { child, label, stdout, stderr, seen: String::new() })
    }

    /// Waits until standard error contains `text`.
    ///
    /// # Errors
    /// Returns an error if the command exits before that, or after a timeout.
    pub fn wait_for_stderr(&mut self, text: &str) -> Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        while !self.seen.contains(text) {
            let timeout = deadline.saturating_duration_since(Instant::now());
            let part = self.stderr.recv_timeout(timeout);
            let part =
                part.with_context(|| format!("{}: did not print {text:?}, but: {}", self.label, self.seen))?;
            self.seen.push_str(&String::from_utf8_lossy(&part));
        }
        Ok(())
    }

    /// Returns the standard error that [`wait_for_stderr`](Self::wait_for_stderr) has read so far.
    pub fn stderr(&self) -> &str {
        &self.seen
    }

    /// Waits until standard output contains `text`, and returns everything that it has read.
    ///
    /// # Errors
    /// Returns an error if the command exits before that, or after a timeout.
    pub fn wait_for_stdout(&mut self, text: &str) -> Result<String> {
        let deadline = Instant::now() + TIMEOUT;
        let mut seen = String::new();
        while !seen.contains(text) {
            let timeout = deadline.saturating_duration_since(Instant::now());
            let part = self.stdout.recv_timeout(timeout);
            let part =
                part.with_context(|| format!("{}: did not print {text:?}, but: {seen}", self.label))?;
            seen.push_str(&String::from_utf8_lossy(&part));
        }
        Ok(seen)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// Returns an error if it has exited.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("pid")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Writes `input` to standard input, closes it, and waits until the command exits.
    ///
    /// # Errors
    /// Returns an error if it does not exit.
    pub fn finish(mut self, input: &[u8]) -> Result<Finished> {
        if let Some(mut stdin) = self.child.stdin.take() {
            let input = input.to_vec();
            // It may exit without reading everything, and must be able to write while it reads.
            thread::spawn(move || stdin.write_all(&input));
        }
        let deadline = Instant::now() + TIMEOUT;
        let mut stdout = Vec::new();
        let mut stderr = self.seen.clone().into_bytes();
        for (pipe, all) in [(&self.stdout, &mut stdout), (&self.stderr, &mut stderr)] {
            loop {
                match pipe.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                    Ok(part) => all.extend(part),
                    Err(RecvTimeoutError::Disconnected) => break,
                    Err(RecvTimeoutError::Timeout) => {
                        self.child.kill()?;
                        self.child.wait()?;
                        let all = String::from_utf8_lossy(all);
                        bail!(
                            "{} did not exit within {} s; output so far: {all}",
                            self.label,
                            TIMEOUT.as_secs()
                        )
                    }
                }
            }
        }
        let status = self.child.wait()?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Finished { label: self.label.clone(), status, stdout: text(stdout), stderr: text(stderr) })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A process that has exited cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads `pipe` to its end in a thread, so that neither side waits for the other.
fn pump(mut pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(count @ 1..) = pipe.read(&mut buffer) {
            if sender.send(buffer.get(..count).unwrap_or_default().to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

impl Finished {
    /// Returns its standard output if it succeeded.
    ///
    /// # Errors
    /// Returns an error with its output if it failed.
    pub fn success(self) -> Result<String> {
        self.code(0)
    }

    /// Returns its standard output if its exit code is `code`.
    ///
    /// # Errors
    /// Returns an error with its output if it has another exit code.
    pub fn code(self, code: i32) -> Result<String> {
        let Self { label, status, stdout, stderr } = self;
        ensure!(
            status.code() == Some(code),
            "{label}: {status}, not {code}\nstdout: {stdout}\nstderr: {stderr}"
        );
        Ok(stdout)
    }

    /// Returns its standard error if its exit code is `code` and each of `texts` is in it.
    ///
    /// # Errors
    /// Returns an error otherwise.
    pub fn fails(self, code: i32, texts: &[&str]) -> Result<String> {
        let Self { label, status, stdout, stderr } = self;
        ensure!(
            status.code() == Some(code),
            "{label}: {status}, not {code}\nstdout: {stdout}\nstderr: {stderr}"
        );
        for text in texts {
            ensure!(stderr.contains(text), "{label}: did not print {text:?}, but: {stderr}");
        }
        Ok(stderr)
    }
}
