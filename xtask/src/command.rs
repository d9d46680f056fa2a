//! Runs other programs.

use std::{
    env,
    path::PathBuf,
    process::{Command, ExitCode, ExitStatus, Output, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::project::Project;

/// Prints a progress message to standard error.
pub(crate) fn say(text: impl std::fmt::Display) {
    eprintln!("xtask: {text}");
}

/// Cargo commands that do not accept `--locked`.
const UNLOCKED: [&str; 1] = ["fmt"];

/// Returns a command for the cargo that runs xtask, in the workspace's root. It fails if Cargo.lock is out of date.
pub(crate) fn cargo(project: &Project, arguments: &[&str]) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(locked(arguments)).current_dir(project.root());
    cargo
}

/// Adds `--locked` after the command, because arguments after `--` are not cargo's.
fn locked<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = arguments.to_vec();
    if arguments.first().is_some_and(|command| !UNLOCKED.contains(command)) {
        arguments.insert(1, "--locked");
    }
    arguments
}

/// Runs a program that must succeed.
pub(crate) fn check(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", line(command)))?;
    ensure!(status.success(), "{} failed: {status}", line(command));
    Ok(())
}

/// Runs a program that must succeed, and returns its standard output. Standard error is inherited.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let Output { status, stdout, .. } = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", line(command)))?;
    ensure!(status.success(), "{} failed: {status}", line(command));
    Ok(stdout)
}

/// Runs a program and returns its exit status as xtask's own.
pub(crate) fn status_of(command: &mut Command) -> Result<ExitCode> {
    let status = command.status().with_context(|| format!("cannot start {}", line(command)))?;
    Ok(exit_code(status))
}

fn exit_code(status: ExitStatus) -> ExitCode {
    status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// Returns the path of a program.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    program_dirs().into_iter().map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// The directories of PATH, and the system's own, which an ordinary user's PATH may lack.
fn program_dirs() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from)).collect()
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Returns a command that runs `program` as root, or as root of a user namespace, so that disks get the right owners.
pub(crate) fn as_root(program: &str) -> Result<Command> {
    let Some(path) = find_program(program) else { bail!("{program} is missing: run `cargo xtask setup`") };
    if is_root() {
        return Ok(Command::new(path));
    }
    let mut unshare = Command::new("unshare");
    unshare.args(["--map-root-user", "--map-auto", "--"]).arg(path);
    unshare.env("PATH", env::join_paths(program_dirs())?);
    Ok(unshare)
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let mut line = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    if line.len() > 200 {
        line.truncate(line.floor_char_boundary(200));
        line.push('…');
    }
    format!("`{line}`")
}

#[cfg(test)]
mod tests {
    use super::locked;

    #[test]
    fn cargo_never_changes_the_lock_file() {
        assert_eq!(
            locked(&["clippy", "--", "-D", "warnings"]),
            ["clippy", "--locked", "--", "-D", "warnings"]
        );
        assert_eq!(locked(&["fmt", "--check"]), ["fmt", "--check"]);
    }
}
