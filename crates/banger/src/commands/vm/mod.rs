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
pub(crate) mod network;
pub(crate) mod open;
mod pause;
pub(crate) mod ping;
pub(crate) mod ports;
mod prune;
pub(crate) mod publish;
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
mod unpublish;
pub(crate) mod workspace;

use std::process::ExitCode;

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
    Network(network::NetworkCommand),
    Open(open::Open),
    Publish(publish::PublishCommand),
    Unpublish(unpublish::Unpublish),
    Ping(ping::Ping),
    Health(health::Health),
    Logs(logs::Logs),
    Stats(stats::Stats),
    /// Send git repositories into VMs, and get changes back
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
            Self::Network(command) => command.run(ui).await,
            Self::Open(command) => command.run(ui).await,
            Self::Publish(command) => command.run(ui).await,
            Self::Unpublish(command) => command.run(ui).await,
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
