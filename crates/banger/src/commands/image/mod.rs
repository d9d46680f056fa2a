//! `banger image …`

mod build;
pub(crate) mod bundle;
mod cache;
mod commit;
mod delete;
mod import;
mod list;
mod promote;
mod pull;
mod register;
mod rename;
mod show;
mod tag;

use std::process::ExitCode;

use clap::Subcommand;

use crate::{error::CommandError, ui::Ui};

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    #[command(visible_alias = "ls")]
    List(list::List),
    Show(show::Show),
    Import(import::Import),
    Pull(pull::Pull),
    Bundle(bundle::Bundle),
    Commit(commit::Commit),
    Build(build::Build),
    Register(register::Register),
    Promote(promote::Promote),
    Tag(tag::Tag),
    Rename(rename::Rename),
    #[command(visible_alias = "rm")]
    Delete(delete::Delete),
    /// Manage the cache of layers, initrds and catalogs
    #[command(subcommand)]
    Cache(cache::CacheCommand),
}

impl ImageCommand {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        match self {
            Self::List(command) => command.run(ui).await,
            Self::Show(command) => command.run(ui).await,
            Self::Import(command) => command.run(ui).await,
            Self::Pull(command) => command.run(ui).await,
            Self::Bundle(command) => command.run(ui).await,
            Self::Commit(command) => command.run(ui).await,
            Self::Build(command) => command.run(ui).await,
            Self::Register(command) => command.run(ui).await,
            Self::Promote(command) => command.run(ui).await,
            Self::Tag(command) => command.run(ui).await,
            Self::Rename(command) => command.run(ui).await,
            Self::Delete(command) => command.run(ui).await,
            Self::Cache(command) => command.run(ui).await,
        }
    }
}
