//! Runs `nft`.

use std::{
    io::{self, Read, Write},
    path::PathBuf,
    process::{Command, Stdio},
};

/// Maximum length of an error of `nft`, in bytes.
const MAX_ERROR: u64 = 1000;

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
