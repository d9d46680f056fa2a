//! Runs `nft`.

use std::{
    io::{self, Read, Write},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};

/// Maximum length of an error of `nft`, in bytes.
const MAX_ERROR: u64 = 1000;

/// Timeout for `nft`, in seconds: it takes milliseconds.
const TIMEOUT: i64 = 30;

/// The program `nft`.
#[derive(Debug)]
pub(super) struct Nft(pub(super) PathBuf);

impl Nft {
    /// Applies a text, as a whole or not at all.
    pub(super) fn apply(&self, text: &str) -> io::Result<()> {
        let mut command = Command::new(&self.0);
        command.args(["-f", "-"]).env_clear().current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        // It reads everything before it writes, so that neither blocks the other.
        let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(text.as_bytes()));
        if let Err(error) = wait(&child) {
            child.kill()?;
            child.wait()?;
            return Err(error);
        }
        let mut error = String::new();
        if let Some(stderr) = child.stderr.take() {
            let mut stderr = stderr.take(MAX_ERROR);
            // An error that is not text is no reason to fail: the exit status counts.
            let _ = stderr.read_to_string(&mut error);
        }
        let status = child.wait()?;
        if status.success() {
            return written;
        }
        let first = error.lines().next().unwrap_or("no message");
        Err(io::Error::other(format!("{} failed with {status}: {first}", self.0.display())))
    }
}

/// Waits until the program has ended, up to [`TIMEOUT`].
fn wait(child: &Child) -> io::Result<()> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let limit = Timespec { tv_sec: TIMEOUT, tv_nsec: 0 };
    match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit))? {
        0 => Err(io::Error::new(io::ErrorKind::TimedOut, format!("nft did not end within {TIMEOUT} s"))),
        _ => Ok(()),
    }
}
