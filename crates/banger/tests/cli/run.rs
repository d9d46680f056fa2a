//! Running commands and their results.

use std::{
    io::{Read, Write},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::phases::TIMEOUT;

/// A running command. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    stdout: Option<Receiver<Vec<u8>>>,
    stderr: Receiver<Vec<u8>>,
    seen: String,
}

/// A command that has exited.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Running {
    /// Starts `command` with pipes as its standard streams.
    pub(crate) fn start(mut command: Command) -> Result<Self> {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let stdout = Some(pump(child.stdout.take().context("stdout")?));
        let stderr = pump(child.stderr.take().context("stderr")?);
        Ok(Self { child, stdout, stderr, seen: String::new() })
    }

    /// Starts `command` whose standard output is not read until it finishes.
    pub(crate) fn start_unread(mut command: Command) -> Result<Self> {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let stderr = pump(child.stderr.take().context("stderr")?);
        Ok(Self { child, stdout: None, stderr, seen: String::new() })
    }

    /// Waits until standard error contains `text`.
    pub(crate) fn wait_for_stderr(&mut self, text: &str) -> Result<()> {
        while !self.seen.contains(text) {
            let part = self.stderr.recv_timeout(TIMEOUT);
            let part = part.with_context(|| format!("it did not print {text:?}, but: {}", self.seen))?;
            self.seen.push_str(&String::from_utf8_lossy(&part));
        }
        Ok(())
    }

    /// Waits until standard output contains `text`.
    pub(crate) fn wait_for_stdout(&mut self, text: &str) -> Result<()> {
        let stdout = self.stdout.as_ref().context("standard output is not read")?;
        let mut seen = String::new();
        while !seen.contains(text) {
            let part = stdout.recv_timeout(TIMEOUT);
            let part = part.with_context(|| format!("it did not print {text:?}, but: {seen}"))?;
            seen.push_str(&String::from_utf8_lossy(&part));
        }
        Ok(())
    }

    /// Waits until it has written as much to the standard output that is not read as the pipe holds.
    pub(crate) fn wait_until_unread(&self) -> Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        let pipe = self.child.stdout.as_ref().context("standard output is read")?;
        let capacity = rustix::pipe::fcntl_getpipe_size(pipe)?;
        while usize::try_from(rustix::io::ioctl_fionread(pipe)?)? < capacity {
            ensure!(Instant::now() < deadline, "it does not fill the pipe");
            thread::yield_now();
        }
        Ok(())
    }

    /// Writes to standard input, in full.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.child.stdin.as_mut().context("stdin")?.write_all(bytes)?)
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("pid")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Waits until it exits. Its standard input stays open.
    pub(crate) fn finish(mut self) -> Result<Finished> {
        let deadline = Instant::now() + TIMEOUT;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            // Standard error ends when the process does, or with a child that has it.
            match self.stderr.recv_timeout(std::time::Duration::from_millis(20)) {
                Ok(part) => self.seen.push_str(&String::from_utf8_lossy(&part)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => thread::yield_now(),
            }
            if Instant::now() > deadline {
                bail!("it did not exit; it printed: {}", self.seen);
            }
        };
        let stdout = match self.stdout.take() {
            Some(stdout) => rest(&stdout),
            None => Vec::new(),
        };
        let stderr = self.seen.clone() + &String::from_utf8_lossy(&rest(&self.stderr));
        Ok(Finished { status, stdout: String::from_utf8_lossy(&stdout).into_owned(), stderr })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A process that has exited cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads the rest of a pipe.
fn rest(pipe: &Receiver<Vec<u8>>) -> Vec<u8> {
    let mut all = Vec::new();
    while let Ok(part) = pipe.recv_timeout(TIMEOUT) {
        all.extend(part);
    }
    all
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
    /// Returns its standard output if its exit code is `code`.
    pub(crate) fn code(self, code: i32) -> Result<String> {
        let Self { status, stdout, stderr } = self;
        ensure!(status.code() == Some(code), "{status}, not {code}\nstdout: {stdout}\nstderr: {stderr}");
        ensure!(!stderr.contains("panicked"), "it panicked: {stderr}");
        Ok(stdout)
    }

    /// Returns its standard error if it ended because of `signal`.
    pub(crate) fn ended_by(self, signal: Signal) -> Result<String> {
        let stderr = self.stderr.clone();
        self.code(128 + signal.as_raw())?;
        Ok(stderr)
    }
}
