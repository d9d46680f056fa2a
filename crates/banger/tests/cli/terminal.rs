//! A terminal with the test at its other end.

use std::{
    fs::File,
    io::{self, Read, Write},
    process::{Child, Command, ExitStatus},
    sync::mpsc::{Receiver, channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{Mode, OFlags},
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, tcgetattr},
};

use crate::phases::TIMEOUT;

/// A command whose controlling terminal this is.
#[derive(Debug)]
pub(crate) struct Terminal {
    child: Child,
    /// The test's end; `None` once it is closed.
    ptm: Option<File>,
    pts: Option<File>,
    output: Receiver<Vec<u8>>,
    /// The thread that reads, and what stops it when it is dropped.
    reading: Option<(JoinHandle<()>, io::PipeWriter)>,
    seen: String,
}

impl Terminal {
    /// Starts `command` on a new terminal.
    pub(crate) fn start(command: &Command) -> Result<Self> {
        let ptm = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&ptm)?;
        unlockpt(&ptm)?;
        let name = ptsname(&ptm, Vec::new())?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let pts = File::from(rustix::fs::open(name, flags, Mode::empty())?);
        let ptm = File::from(ptm);
        // `setsid --ctty` makes it the controlling terminal. It replaces itself by the command.
        let mut session = Command::new("setsid");
        session.args(["--ctty"]).arg(command.get_program()).args(command.get_args());
        session.env_clear().env("TERM", "xterm");
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                session.env(name, value);
            }
        }
        if let Some(dir) = command.get_current_dir() {
            session.current_dir(dir);
        }
        session.stdin(pts.try_clone()?).stdout(pts.try_clone()?).stderr(pts.try_clone()?);
        let child = session.spawn().context("setsid")?;
        let (sender, output) = channel();
        let mut reader = ptm.try_clone()?;
        let (stopped, stop) = io::pipe()?;
        let thread = thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let mut fds = [PollFd::new(&reader, PollFlags::IN), PollFd::new(&stopped, PollFlags::IN)];
                if poll(&mut fds, None).is_err() || !fds[1].revents().is_empty() {
                    return;
                }
                match reader.read(&mut buffer) {
                    Ok(count @ 1..) => {
                        // The receiver may be gone.
                        let _ = sender.send(buffer.get(..count).unwrap_or_default().to_vec());
                    }
                    _ => return,
                }
            }
        });
        let reading = Some((thread, stop));
        Ok(Self { child, ptm: Some(ptm), pts: Some(pts), output, reading, seen: String::new() })
    }

    /// Types `text`.
    pub(crate) fn send_keys(&mut self, text: &str) -> Result<()> {
        Ok(self.ptm.as_mut().context("it is closed")?.write_all(text.as_bytes())?)
    }

    /// Waits until `text` is shown.
    pub(crate) fn wait_for(&mut self, text: &str) -> Result<()> {
        while !self.seen.contains(text) {
            let part = self.output.recv_timeout(TIMEOUT);
            let part = part.with_context(|| format!("{text:?} was not shown, but: {:?}", self.seen))?;
            self.seen.push_str(&String::from_utf8_lossy(&part));
        }
        Ok(())
    }

    /// Returns whether `text` was shown.
    pub(crate) fn has_shown(&self, text: &str) -> bool {
        self.seen.contains(text)
    }

    /// Returns whether line editing and echo are on, as a shell leaves and expects them.
    pub(crate) fn is_cooked(&self) -> Result<bool> {
        let modes = tcgetattr(self.pts.as_ref().context("it is closed")?)?;
        Ok(modes.local_modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG))
    }

    /// Sends the command a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("pid")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Hangs up, as if the terminal's window was closed.
    pub(crate) fn close(&mut self) -> Result<()> {
        let (thread, stop) = self.reading.take().context("it is closed")?;
        drop(stop);
        thread.join().map_err(|_| anyhow!("the reading thread panicked"))?;
        self.pts = None;
        // The kernel hangs up when the last descriptor of the test's end is closed.
        self.ptm = None;
        Ok(())
    }

    /// Waits until the command exits.
    pub(crate) fn wait(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            match self.output.recv_timeout(Duration::from_millis(20)) {
                Ok(part) => self.seen.push_str(&String::from_utf8_lossy(&part)),
                Err(_) if self.reading.is_none() => {
                    ensure!(Instant::now() < deadline, "it did not exit");
                    thread::sleep(Duration::from_millis(5));
                }
                Err(_) => ensure!(Instant::now() < deadline, "it did not exit; it printed {:?}", self.seen),
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A process that has exited cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
