//! Runs the `git` program: finds it, and limits its environment, run time and output.

use std::{
    env,
    ffi::OsStr,
    fs::File,
    io::{self, Read},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{OpenOptionsExt, PermissionsExt},
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use banger_sys::confine::{Confinement, Limits as ProcessLimits, Report, Support, SystemCalls, confine};
use rustix::fs::OFlags;

pub use crate::git_error::GitError;
pub(crate) use crate::git_error::unexpected_output;
use crate::{
    budget::ResourceLimits,
    process::{Cancel, GRACE, Limits, MAX_OUTPUT, Process},
};

/// Timeout for git. Packing the recent history of the largest repositories takes minutes.
const TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// The oldest git that understands all that banger uses, of June 2021. Supported distributions have later ones.
///
/// 2.32: `GIT_CONFIG_GLOBAL`, without which the user's settings apply in temporary repositories, and ignore files that
/// are links are not followed. 2.31: `rev-parse --path-format` and `GIT_CONFIG_COUNT`. 2.30: `rev-parse
/// --end-of-options`.
const MINIMUM: (u32, u32) = (2, 32);
const MINIMUM_TEXT: &str = "2.32";

const VERSION: &str = "version";

/// Number of files that a confined git may open. It keeps more packs than that closed.
const MAX_OPEN_FILES: u64 = 1024;

/// Environment variables that git inherits. Those that could redirect it or make it run something are left out.
const PASSED_VARIABLES: &[&str] = &["HOME", "XDG_CONFIG_HOME", "TMPDIR", "USER", "LOGNAME"];

/// The `git` program.
#[derive(Debug, Clone)]
pub struct Git {
    program: PathBuf,
    limits: Limits,
}

impl Git {
    /// Finds git in `PATH`.
    ///
    /// # Errors
    /// Returns `Missing` if it is not there.
    pub fn find() -> Result<Self, GitError> {
        let mut programs = search_path().into_iter().map(|dir| dir.join("git"));
        let program = programs.find(|program| is_program(program)).ok_or(GitError::Missing)?;
        Ok(Self {
            program,
            limits: Limits { time: TIMEOUT, cancel: None, grace: GRACE, output: MAX_OUTPUT, resources: None },
        })
    }

    /// Returns this git, whose commands end as soon as `cancel` is cancelled, with the error `Cancelled`.
    ///
    /// Signals of the terminal do not reach git: pass them on with `cancel`.
    #[must_use]
    pub fn with_cancel(mut self, cancel: Cancel) -> Self {
        self.limits.cancel = Some(cancel);
        self
    }

    /// Returns git's version, as it prints it.
    ///
    /// # Errors
    /// Returns `TooOld` if banger does not work with it.
    pub fn version(&self) -> Result<String, GitError> {
        let printed = run(self.command([VERSION]), &[])?;
        check_version(&String::from_utf8_lossy(&printed))
    }

    /// Returns what this kernel applies of the confinement in which git reads a guest's data.
    ///
    /// # Errors
    /// Returns an error if git does not run in it.
    pub fn check_confinement(&self) -> Result<Report, GitError> {
        let confinement = confinement();
        let report = confinement.report(Support::of_kernel());
        run(self.command([VERSION]).confine(confinement), &[]).map(|_| report)
    }

    /// Returns a git command with a minimal environment, which never prompts or fetches.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> GitCommand {
        let mut command = self.clean_command(self.program.as_os_str());
        command
            .envs([
                ("LC_ALL", "C"),
                ("GIT_TERMINAL_PROMPT", "0"),
                ("GIT_OPTIONAL_LOCKS", "0"),
                ("GIT_NO_REPLACE_OBJECTS", "1"),
                ("GIT_NO_LAZY_FETCH", "1"),
                // Before 2.45, git ignores the previous variable. This one overrides every configuration: git does not
                // fetch what is missing, so it runs no program that a remote's configuration names.
                ("GIT_ALLOW_PROTOCOL", "none"),
                ("GIT_PAGER", "cat"),
            ])
            .args(["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "gc.auto=0"])
            .args(arguments);
        GitCommand::new(name(&command), command, self.limits.clone())
    }

    /// Returns the command `words`, which runs the git command `what` elsewhere, with the same limits. It is killed
    /// at once when it has to end: it has no lock files here, and a guest decides how long it takes to end by itself. A
    /// second signal of the user ends this process meanwhile, and would leave it to the guest.
    pub(crate) fn command_through<S: AsRef<OsStr>>(
        &self,
        words: impl IntoIterator<Item = S>,
        what: &str,
    ) -> GitCommand {
        let mut words = words.into_iter();
        let program = words.next();
        let mut command = self.clean_command(program.as_ref().map_or(OsStr::new("false"), AsRef::as_ref));
        command.args(words);
        let limits = Limits { grace: Duration::ZERO, ..self.limits.clone() };
        GitCommand::new(what.to_owned(), command, limits)
    }

    fn clean_command(&self, program: &OsStr) -> Command {
        let mut command = Command::new(program);
        command.env_clear();
        for name in PASSED_VARIABLES {
            if let Some(value) = env::var_os(name) {
                command.env(name, value);
            }
        }
        // None of its parts contains a colon, which would be the only error.
        command.env("PATH", env::join_paths(search_path()).unwrap_or_default());
        command
    }
}

/// Returns what git may do while it reads a guest's data, without its files. Other limits depend on the command.
pub(crate) fn confinement() -> Confinement {
    let limits = ProcessLimits { open_files: MAX_OPEN_FILES, file_size: None, memory: None };
    Confinement { system_calls: SystemCalls::Processes, limits, ..Confinement::default() }
}

/// A git command to run.
#[derive(Debug)]
pub(crate) struct GitCommand {
    what: String,
    command: Command,
    limits: Limits,
    /// What it may do; `None` is everything that the user may.
    confinement: Option<Confinement>,
    /// Descriptors that it inherits under their numbers, if it is confined.
    inherited: Vec<OwnedFd>,
}

impl GitCommand {
    fn new(what: String, command: Command, limits: Limits) -> Self {
        Self { what, command, limits, confinement: None, inherited: Vec::new() }
    }

    /// Sets an environment variable.
    pub(crate) fn env(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        self.command.env(name, value);
        self
    }

    /// Sets the working directory.
    pub(crate) fn current_dir(&mut self, dir: impl AsRef<Path>) -> &mut Self {
        self.command.current_dir(dir);
        self
    }

    /// Confines it and the processes that it starts.
    pub(crate) fn confine(mut self, confinement: Confinement) -> Self {
        self.confinement = Some(confinement);
        self
    }

    /// Passes descriptors on to it, under their numbers. It has to be confined.
    pub(crate) fn inherit(mut self, descriptors: impl Into<Vec<OwnedFd>>) -> Self {
        self.inherited = descriptors.into();
        self
    }

    /// Starts it with pipes for its input and output.
    pub(crate) fn start(self) -> Result<Process, GitError> {
        self.start_with(Stdio::piped(), Stdio::piped())
    }

    /// Starts it with this standard input and output.
    pub(crate) fn start_with(
        mut self,
        stdin: impl Into<Stdio>,
        stdout: impl Into<Stdio>,
    ) -> Result<Process, GitError> {
        self.command.stdin(stdin).stdout(stdout);
        match self.confinement {
            Some(confinement) => {
                let confined = confine(&mut self.command, &confinement, self.inherited);
                confined.map_err(|source| GitError::Run { what: self.what.clone(), source })?;
            }
            None => _ = self.command.process_group(0),
        }
        Process::start(self.command, self.what, self.limits)
    }

    /// Limits the output, in bytes, and git itself from the time that it gets its input.
    pub(crate) fn within(mut self, output: usize, resources: Option<ResourceLimits>) -> Self {
        (self.limits.output, self.limits.resources) = (output, resources);
        self
    }

    /// Passes the variables of banger's programs on, which git starts.
    pub(crate) fn with_banger_variables(mut self) -> Self {
        let is_banger_variable = |name: &OsStr| {
            name.to_str().is_some_and(|name| name.starts_with("XDG_") || name.starts_with("BANGER_"))
        };
        self.command.envs(env::vars_os().filter(|(name, _)| is_banger_variable(name)));
        self
    }
}

/// Runs `command` with `input`, and returns its output.
pub(crate) fn run(command: GitCommand, input: &[u8]) -> Result<Vec<u8>, GitError> {
    let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
    command.start_with(stdin, Stdio::piped())?.communicate(input)
}

/// Returns the absolute directories of `PATH`. Others could be in a hostile repository.
fn search_path() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).filter(|dir| dir.is_absolute()).collect()
}

fn check_version(printed: &str) -> Result<String, GitError> {
    let printed = printed.trim();
    let version = printed.strip_prefix("git version ").unwrap_or(printed);
    // Vendors add words and numbers, such as `2.39.5 (Apple Git-154)`.
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= MINIMUM => Ok(version.to_owned()),
        (Some(Ok(_)), Some(Ok(_))) => {
            Err(GitError::TooOld { version: version.to_owned(), minimum: MINIMUM_TEXT })
        }
        _ => Err(unexpected_output(VERSION, format!("`{version}` is not a version"))),
    }
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Returns the git command among the arguments.
fn name(command: &Command) -> String {
    let mut arguments = command.get_args().peekable();
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("-c" | "-C") => _ = arguments.next(),
            Some(flag) if flag.starts_with('-') => {}
            _ => return argument.to_string_lossy().into_owned(),
        }
    }
    String::new()
}

/// Reads a whole file. Returns `None` if it does not exist.
pub(crate) fn read_file(path: &Path) -> io::Result<Option<Vec<u8>>> {
    // Do not block on a pipe in a hostile repository.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    match File::options().read(true).custom_flags(flags).open(path) {
        Ok(file) => {
            if !file.metadata()?.is_file() {
                return Err(io::Error::other("it is not a file"));
            }
            let mut bytes = Vec::new();
            file.take(MAX_OUTPUT as u64).read_to_end(&mut bytes)?;
            Ok(Some(bytes))
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_runs_git_elsewhere_is_killed_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let script = "trap 'touch asked' TERM; echo; while :; do sleep 1; done";
        let mut command = Git::find().unwrap().command_through(["sh", "-c", script], "fake");
        command.current_dir(dir.path());
        let mut process = command.start().unwrap();
        process.read_exact(&mut [0]).unwrap();
        drop(process);
        assert!(!dir.path().join("asked").exists());
    }

    #[test]
    fn versions_that_are_too_old_are_rejected() {
        let version = |printed: &str| check_version(&format!("{printed}\n"));
        for new in ["2.32.0", "2.39.5 (Apple Git-154)", "2.55.GIT", "2.100.0-rc1", "3.0.0", "10.1"] {
            assert_eq!(version(&format!("git version {new}")).unwrap(), new);
        }
        for old in ["2.31.9", "2.9.5", "1.99.0"] {
            let error = version(&format!("git version {old}")).unwrap_err();
            assert_eq!(error.to_string(), format!("git {old} is too old; banger needs git 2.32 or later"));
        }
        for odd in ["", "git version", "git version x.y", "git version 2"] {
            assert!(matches!(version(odd), Err(GitError::UnexpectedOutput { .. })), "{odd}");
        }
        assert_eq!(MINIMUM_TEXT, format!("{}.{}", MINIMUM.0, MINIMUM.1));
    }
}
