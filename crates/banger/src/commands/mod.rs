//! The commands: a file each, with its arguments, whose doc comments are its help, and what it does.

mod completion;
mod daemon;
mod image;
mod kernel;
mod several;
mod version;
mod vm;
mod watch;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, builder::NonEmptyStringValueParser};

use crate::{error::CommandError, ui::Ui};

/// A Linux machine of your own in seconds: a microVM with its own kernel, thrown away or kept as you like.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, after_help = EXAMPLES, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// All commands, their help as it applies on this host.
    pub(crate) fn on_this_host() -> clap::Command {
        Self::command().mut_subcommand("vm", |vm| vm.mut_subcommand("run", vm::run::with_defaults))
    }
}

const EXAMPLES: &str = "\
Examples:
  banger vm run --rm -- uname -a     a command in a fresh VM, which is gone afterwards
  banger vm run                      a shell in a fresh VM
  banger vm run -d --name box        a VM that stays
  banger vm exec box -- make test    a command in it
  banger vm delete --force box       its end";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make VMs and work in them
    #[command(subcommand)]
    Vm(vm::VmCommand),
    /// List VMs (the same as `vm list`)
    Ps(vm::list::List),
    /// Root file systems that VMs are made of
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// Guest kernels
    #[command(subcommand)]
    Kernel(kernel::KernelCommand),
    /// The daemon, which starts by itself
    #[command(subcommand)]
    Daemon(daemon::DaemonCommand),
    /// Print a shell's completion script
    Completion(completion::Completion),
    /// Print the versions of banger and of the daemon that runs
    Version(version::Version),
}

impl Command {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        match self {
            Self::Vm(command) => command.run(ui).await,
            Self::Ps(command) => command.run(ui).await,
            Self::Image(command) => command.run(ui).await,
            Self::Kernel(command) => command.run(ui).await,
            Self::Daemon(command) => command.run(ui).await,
            Self::Completion(command) => command.run(ui),
            Self::Version(command) => command.run(ui).await,
        }
    }
}

/// A VM, image or kernel as the user names it: by id, name, or the beginning of either.
fn reference() -> NonEmptyStringValueParser {
    NonEmptyStringValueParser::new()
}
