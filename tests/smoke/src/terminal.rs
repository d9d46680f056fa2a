//! A real terminal: the controlling terminal of a command, with the scenario at its other end.

use std::{
    fs::File,
    io::{Read, Write},
    process::{Child, Command, ExitStatus},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize},
};

/// Timeout against hangs.
const TIMEOUT: Duration = Duration::from_secs(240);

/// A command on a terminal of its own.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    ptm: File,
    pts: File,
    output: Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    /// Starts `command` on a new terminal of this size.
    ///
    /// # Errors
    /// Returns an error if no terminal can be opened, or if the command does not start.
    pub fn start(command: &Command, rows: u16, cols: u16) -> Result<Self> {
        let ptm = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        grantpt(&ptm)?;
        unlockpt(&ptm)?;
        let name = ptsname(&ptm, Vec::new())?;
        let pts = File::from(rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty())?);
        let ptm = File::from(ptm);
        resize(&ptm, rows, cols)?;
        // `setsid --ctty` makes it the controlling terminal, as for a shell.
        let mut session = Command::new("setsid");
        session.args(["--ctty", "--wait"]);
        // A shell starts background jobs with these signals ignored, and their children inherit that.
        session.args(["env", "--default-signal=INT,QUIT"]);
        session.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => session.env(name, value),
                None => session.env_remove(name),
            };
        }
        session.env("TERM", "xterm");
        session.stdin(pts.try_clone()?).stdout(pts.try_clone()?).stderr(pts.try_clone()?);
        let child = session.spawn().context("setsid")?;
        let (sender, output) = channel();
        let mut reader = ptm.try_clone()?;
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer.get(..count).unwrap_or_default().to_vec()).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, ptm, pts, output, seen: String::new() })
    }

    /// Types `text`.
    ///
    /// # Errors
    /// Returns an error if the terminal is closed.
    pub fn send_keys(&mut self, text: &str) -> Result<()> {
        Ok(self.ptm.write_all(text.as_bytes())?)
    }

    /// Waits until `text` is shown after the text of the previous call, and returns the output up to its end.
    ///
    /// # Errors
    /// Returns an error after a timeout.
    pub fn wait_for(&mut self, text: &str) -> Result<String> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return Ok(std::mem::replace(&mut self.seen, rest));
            }
            let part = self.output.recv_timeout(deadline.saturating_duration_since(Instant::now()));
            let part = part.with_context(|| format!("{text:?} was not shown, but: {:?}", self.seen))?;
            self.seen.push_str(&String::from_utf8_lossy(&part));
        }
    }

    /// Resizes the terminal.
    ///
    /// # Errors
    /// Returns an error if the terminal is closed.
    pub fn resize(&self, rows: u16, cols: u16) -> Result<()> {
        resize(&self.ptm, rows, cols)
    }

    /// Returns whether line editing and echo are on, as a shell leaves and expects them.
    ///
    /// # Errors
    /// Returns an error if the terminal is closed.
    pub fn is_cooked(&self) -> Result<bool> {
        let modes: Termios = tcgetattr(&self.pts)?;
        Ok(modes.local_modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG))
    }

    /// Waits until the command exits.
    ///
    /// # Errors
    /// Returns an error with the last output after a timeout.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + TIMEOUT;
        // Poll: the output does not end, because this process has the terminal's other end open too.
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            match self.output.recv_timeout(Duration::from_millis(50)) {
                Ok(part) => self.seen.push_str(&String::from_utf8_lossy(&part)),
                Err(_) => ensure!(Instant::now() < deadline, "it did not exit; last output: {:?}", self.seen),
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A failed scenario may have left it running; a process that has exited cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn resize(terminal: &File, rows: u16, cols: u16) -> Result<()> {
    let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(terminal, size)?)
}
