//! Programs that banger starts: `git`, which runs the real one unless it hangs, and an `ssh` that waits for a signal.

use std::{
    env,
    ffi::{OsStr, OsString},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    thread,
};

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::{daemon::exit_with_tests, phases::Phases};

/// Exit status of `ssh` after a signal.
pub(crate) const SSH_STATUS: u8 = 42;

pub(crate) fn main(name: &OsStr, arguments: &[OsString]) -> Result<ExitCode> {
    let home = env::var_os("HOME").map(PathBuf::from).context("HOME")?;
    let root = home.parent().context("HOME has no parent")?;
    let phases = Phases::of(root);
    if name == "ssh" { ssh(&phases) } else { git(root, &phases, arguments) }
}

/// A confined git reports nothing and never hangs: it cannot reach the test.
fn git(root: &Path, phases: &Phases, arguments: &[OsString]) -> Result<ExitCode> {
    let mut words = arguments.iter().filter_map(|word| word.to_str());
    let mut command = "";
    while let Some(word) = words.next() {
        match word {
            "-c" | "-C" => _ = words.next(),
            word if word.starts_with('-') => {}
            word => {
                command = word;
                break;
            }
        }
    }
    if phases.reach(&format!("git {command} {}", std::process::id())) {
        exit_with_tests(root)?;
        loop {
            thread::park();
        }
    }
    bail!(Command::new(real_git()?).args(arguments).exec())
}

/// Returns the path of the real git.
pub(crate) fn real_git() -> Result<PathBuf> {
    let dirs = [Path::new("/usr/bin"), Path::new("/bin"), Path::new("/usr/local/bin")];
    dirs.into_iter().map(|dir| dir.join("git")).find(|path| path.is_file()).context("there is no git")
}

fn ssh(phases: &Phases) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        phases.report("ssh");
        let name = tokio::select! {
            _ = interrupt.recv() => "INT",
            _ = terminate.recv() => "TERM",
            _ = hang_up.recv() => "HUP",
        };
        phases.report(&format!("ssh got {name}"));
        Ok(ExitCode::from(SSH_STATUS))
    })
}
