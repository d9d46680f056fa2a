//! `banger vm …`

pub(super) mod cp;
mod create;
mod delete;
mod entry;
mod exec;
pub(super) mod hardware;
mod health;
mod kill;
pub(super) mod list;
mod logs;
mod pause;
mod ping;
mod ports;
mod prune;
mod restart;
mod resume;
pub(super) mod run;
mod set;
mod shell;
mod show;
mod ssh;
mod start;
mod stats;
mod stop;
mod workspace;

use std::{fs, path::PathBuf, process::ExitCode};

use banger_api::{ApiError, ErrorKind};
use clap::Subcommand;

use crate::{error::CommandError, ui::Ui};

#[derive(Debug, Subcommand)]
pub(crate) enum VmCommand {
    Run(Box<run::Run>),
    Create(create::Create),
    #[command(visible_alias = "ls")]
    List(list::List),
    Show(show::Show),
    Start(start::Start),
    Stop(stop::Stop),
    Restart(restart::Restart),
    Kill(kill::Kill),
    Pause(pause::Pause),
    Resume(resume::Resume),
    Set(set::Set),
    Shell(shell::Shell),
    Ssh(ssh::Ssh),
    Exec(exec::ExecArgs),
    Cp(cp::Cp),
    Ports(ports::Ports),
    Ping(ping::Ping),
    Health(health::Health),
    Logs(logs::Logs),
    Stats(stats::Stats),
    /// Git repositories into VMs, and work back out
    #[command(subcommand)]
    Workspace(workspace::WorkspaceCommand),
    #[command(visible_alias = "rm")]
    Delete(delete::Delete),
    Prune(prune::Prune),
}

impl VmCommand {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        match self {
            Self::Run(command) => command.run(ui).await,
            Self::Create(command) => command.run(ui).await,
            Self::List(command) => command.run(ui).await,
            Self::Show(command) => command.run(ui).await,
            Self::Start(command) => command.run(ui).await,
            Self::Stop(command) => command.run(ui).await,
            Self::Restart(command) => command.run(ui).await,
            Self::Kill(command) => command.run(ui).await,
            Self::Pause(command) => command.run(ui).await,
            Self::Resume(command) => command.run(ui).await,
            Self::Set(command) => command.run(ui).await,
            Self::Shell(command) => command.run(ui).await,
            Self::Ssh(command) => command.run(ui).await,
            Self::Exec(command) => command.run(ui).await,
            Self::Cp(command) => command.run(ui).await,
            Self::Ports(command) => command.run(ui).await,
            Self::Ping(command) => command.run(ui).await,
            Self::Health(command) => command.run(ui).await,
            Self::Logs(command) => command.run(ui).await,
            Self::Stats(command) => command.run(ui).await,
            Self::Workspace(command) => command.run(ui).await,
            Self::Delete(command) => command.run(ui).await,
            Self::Prune(command) => command.run(ui).await,
        }
    }
}

/// The variables of `files`, and `more`, which beat them.
fn variables(files: &[PathBuf], more: Vec<(String, String)>) -> Result<Vec<(String, String)>, ApiError> {
    let mut all = Vec::new();
    for path in files {
        let wrong =
            |why: String| ApiError::new(ErrorKind::Invalid, format!("cannot use {}: {why}", path.display()));
        let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                all.push(variable(line).map_err(|why| wrong(format!("line {}: {why}", number + 1)))?);
            }
        }
    }
    all.extend(more);
    Ok(all)
}

/// A variable as `NAME=VALUE`, or `NAME` for the value it has here.
pub(crate) fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, value.to_owned()),
        None => {
            (text, std::env::var(text).map_err(|_| format!("{text} is not set here; write {text}=VALUE"))?)
        }
    };
    if name.is_empty() {
        return Err("a variable needs a name".to_owned());
    }
    Ok((name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_variables_is_lines_as_on_the_command_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("env");
        fs::write(&path, "# a comment\n\nA=1\n B=x=y z\n").unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let files = [path.clone()];
        let all = variables(&files, vec![pair("A", "2")]).unwrap();
        assert_eq!(all, [pair("A", "1"), pair("B", "x=y z"), pair("A", "2")]);
        fs::write(&path, "A=1\n=2\n").unwrap();
        let error = variables(&files, Vec::new()).unwrap_err();
        assert!(error.message.ends_with("line 2: a variable needs a name"), "{}", error.message);
        assert!(variables(&[folder.path().join("none")], Vec::new()).is_err());
    }
}
