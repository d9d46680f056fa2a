//! A command under way, and what came of it.

use std::{
    io::{Read, Write},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// A bound against hanging, not a measure of speed: a slow machine boots a guest without KVM in a fraction of it.
const LIMIT: Duration = Duration::from_secs(240);

/// The pause between two looks at what has no event to wait for.
const PAUSE: Duration = Duration::from_millis(200);

/// The longest pause where there are events: a look may be of more than they tell.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Looks until `holds`, with a pause after each look; for what is seen in a guest, which sends no events.
///
/// # Errors
/// When a look fails, or it does not come to hold.
pub fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !holds()? {
        ensure!(Instant::now() < deadline, "not within {} s: {what}", LIMIT.as_secs());
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// Looks until `holds`, at first and whenever a follower of events prints something; `follow` starts one that first
/// prints what it remembers.
///
/// # Errors
/// As [`until`]; and when a follower prints nothing.
pub(crate) fn until_event(
    what: &str,
    mut holds: impl FnMut() -> Result<bool>,
    follow: impl Fn() -> Result<Running>,
) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    let mut follower = follow()?;
    follower.wait_for_stdout("\n")?;
    while !holds()? {
        ensure!(Instant::now() < deadline, "not within {} s: {what}", LIMIT.as_secs());
        if follower.stdout.recv_timeout(LONGEST_PAUSE) == Err(RecvTimeoutError::Disconnected) {
            // Its daemon was killed.
            follower = follow()?;
            follower.wait_for_stdout("\n")?;
        }
    }
    Ok(())
}

/// A command that runs. It is killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    what: String,
    stdout: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
    seen: String,
}

/// A command that has ended.
#[derive(Debug)]
pub struct Finished {
    /// What was run.
    pub what: String,
    /// Its exit status.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Running {
    /// Starts `command`, told of as `what`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(mut command: Command, what: String) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| what.clone())?;
        let stdout = pump(child.stdout.take().context("stdout")?);
        let stderr = pump(child.stderr.take().context("stderr")?);
        Ok(Self { child, what, stdout, stderr, seen: String::new() })
    }

    /// Waits until standard error has had `text`.
    ///
    /// # Errors
    /// When the command ends before, or it takes too long.
    pub fn wait_for_stderr(&mut self, text: &str) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while !self.seen.contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            let part = self.stderr.recv_timeout(left);
            let part =
                part.with_context(|| format!("{}: never said {text:?}, but: {}", self.what, self.seen))?;
            self.seen.push_str(&String::from_utf8_lossy(&part));
        }
        Ok(())
    }

    /// What standard error has had so far, of what was waited for.
    pub fn stderr(&self) -> &str {
        &self.seen
    }

    /// Waits until standard output has had `text`, and returns all of it so far.
    ///
    /// # Errors
    /// When the command ends before, or it takes too long.
    pub fn wait_for_stdout(&mut self, text: &str) -> Result<String> {
        let deadline = Instant::now() + LIMIT;
        let mut seen = String::new();
        while !seen.contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            let part = self.stdout.recv_timeout(left);
            let part = part.with_context(|| format!("{}: never printed {text:?}, but: {seen}", self.what))?;
            seen.push_str(&String::from_utf8_lossy(&part));
        }
        Ok(seen)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("pid")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Gives it `input` and then the end of standard input, and waits for its end.
    ///
    /// # Errors
    /// When it does not end.
    pub fn finish(mut self, input: &[u8]) -> Result<Finished> {
        if let Some(mut stdin) = self.child.stdin.take() {
            let input = input.to_vec();
            // It may end without reading everything, and must be able to write while it reads.
            thread::spawn(move || stdin.write_all(&input));
        }
        let deadline = Instant::now() + LIMIT;
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
                        bail!("{} has not ended in {} s; so far: {all}", self.what, LIMIT.as_secs())
                    }
                }
            }
        }
        let status = self.child.wait()?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Finished { what: self.what.clone(), status, stdout: text(stdout), stderr: text(stderr) })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads `pipe` to its end in a thread, so that neither side ever waits for the other.
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
    /// Its standard output, if it succeeded.
    ///
    /// # Errors
    /// When it did not, with all it said.
    pub fn success(self) -> Result<String> {
        self.code(0)
    }

    /// Its standard output, if it ended with `code`.
    ///
    /// # Errors
    /// When it did not, with all it said.
    pub fn code(self, code: i32) -> Result<String> {
        let Self { what, status, stdout, stderr } = self;
        ensure!(
            status.code() == Some(code),
            "{what}: {status}, not {code}\nstdout: {stdout}\nstderr: {stderr}"
        );
        Ok(stdout)
    }

    /// Its standard error, if it failed with `code` and said each of `texts`.
    ///
    /// # Errors
    /// When it did not.
    pub fn fails(self, code: i32, texts: &[&str]) -> Result<String> {
        let Self { what, status, stdout, stderr } = self;
        ensure!(
            status.code() == Some(code),
            "{what}: {status}, not {code}\nstdout: {stdout}\nstderr: {stderr}"
        );
        for text in texts {
            ensure!(stderr.contains(text), "{what}: does not say {text:?}: {stderr}");
        }
        Ok(stderr)
    }
}
