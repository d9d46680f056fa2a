//! Reads the versions of host programs.

use std::{path::Path, process::Stdio, time::Duration};

use banger_sys::confine::confine;
use tokio::{process::Command, time::timeout};

use crate::confinement;

/// Timeout for a program to print its version: only a hung program exceeds it. An idle host needs some 10 ms.
const VERSION_TIMEOUT: Duration = Duration::from_secs(60);

/// The program did not answer within this time.
#[derive(Debug)]
pub(crate) struct TimedOut(pub(crate) Duration);

/// Returns the first line that `program --version` prints, or the reason why it prints nothing.
pub(crate) async fn version_line(program: &Path) -> Result<String, TimedOut> {
    let mut command = std::process::Command::new(program);
    command.arg("--version").stdin(Stdio::null()).env_clear();
    if let Err(error) = confine(&mut command, &confinement::version(), Vec::new()) {
        return Ok(error.to_string());
    }
    let output = Command::from(command).kill_on_drop(true).output();
    let output = match timeout(VERSION_TIMEOUT, output).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Ok(error.to_string()),
        Err(_) => return Err(TimedOut(VERSION_TIMEOUT)),
    };
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    Ok(String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned())
}

/// Returns the first version in `line`: numbers separated by dots.
pub(crate) fn version_in(line: &str) -> Option<(Vec<u32>, &str)> {
    let words = line.split(|c: char| !(c.is_ascii_digit() || c == '.'));
    words.filter(|word| word.contains('.')).find_map(|word| {
        let numbers: Result<Vec<u32>, _> = word.trim_matches('.').split('.').map(str::parse).collect();
        numbers.ok().filter(|numbers| numbers.len() > 1).map(|numbers| (numbers, word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_parsed_from_program_output() {
        let numbers = |line| version_in(line).map(|(numbers, _)| numbers);
        assert_eq!(numbers("Firecracker v1.12.1"), Some(vec![1, 12, 1]));
        assert_eq!(numbers("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)"), Some(vec![7, 2, 22]));
        assert_eq!(numbers("no version here. At all."), None);
    }
}
