//! The commands. Each has a file with its arguments, whose doc comments are the help text, and its code.

mod completion;
mod config;
mod daemon;
mod doctor;
mod events;
pub(crate) mod image;
mod kernel;
mod man;
mod operations;
mod reference;
mod several;
mod since;
pub(crate) mod ssh_config;
mod ssh_proxy;
mod temporary_vm;
mod variables;
mod version;
pub(crate) mod vm;

use std::process::ExitCode;

use banger_api::config::ConfigEntry;
use clap::{CommandFactory, Parser, Subcommand};

use crate::{error::CommandError, ui::Ui};

/// Run Linux microVMs in seconds, each with its own kernel, to throw away or to keep
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, before_help = EXAMPLES, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// Returns all commands, with the effective defaults of this host in their help.
    pub(crate) fn with_effective_defaults() -> clap::Command {
        Self::with_defaults(&crate::config::effective_keys())
    }

    /// Returns all commands, with these defaults in their help.
    pub(crate) fn with_defaults(defaults: &[ConfigEntry]) -> clap::Command {
        let with_defaults = |command| crate::config::with_defaults(command, defaults);
        let command = Self::command()
            .mut_subcommand("vm", |vm| {
                vm.mut_subcommand("run", with_defaults).mut_subcommand("create", with_defaults)
            })
            .mut_subcommand("config", |config| config.mut_subcommand("show", config::with_variables));
        examples_first(completion::with_names(command))
    }
}

/// Help template: description, examples and usage first, then all options.
const HELP_TEMPLATE: &str =
    "{about-with-newline}\n{before-help}{usage-heading} {usage}\n\n{all-args}{after-help}";

fn examples_first(command: clap::Command) -> clap::Command {
    command.help_template(HELP_TEMPLATE).mut_subcommands(examples_first)
}

const EXAMPLES: &str = "\
Examples:
  banger vm run --rm -- uname -a     run a command in a new VM, then delete the VM
  banger vm run                      open a shell in a new VM
  banger vm run -d --name box        create a VM and leave it running
  banger vm exec box -- make test    run a command in it
  banger vm delete --force box       delete it";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Manage VMs and work in them
    #[command(subcommand)]
    Vm(vm::VmCommand),
    /// List VMs (the same as `vm list`)
    Ps(vm::list::List),
    /// Manage images, the root file systems of VMs
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// Manage guest kernels
    #[command(subcommand)]
    Kernel(kernel::KernelCommand),
    Operations(operations::Operations),
    Events(events::EventsCommand),
    SshConfig(ssh_config::SshConfig),
    SshProxy(ssh_proxy::SshProxy),
    /// Manage the daemon, which starts automatically
    #[command(subcommand)]
    Daemon(daemon::DaemonCommand),
    Doctor(doctor::Doctor),
    /// Show the effective configuration
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Print a shell's completion script
    Completion(completion::Completion),
    #[command(name = "man")]
    ManPages(man::ManPages),
    /// Print the versions of banger and of the running daemon
    Version(version::Version),
}

impl Command {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        match self {
            Self::Vm(command) => command.run(ui).await,
            Self::Ps(command) => command.run(ui).await,
            Self::Image(command) => command.run(ui).await,
            Self::Kernel(command) => command.run(ui).await,
            Self::Operations(command) => command.run(ui).await,
            Self::Events(command) => command.run(ui).await,
            Self::SshConfig(command) => command.run(ui),
            Self::SshProxy(command) => command.run(ui).await,
            Self::Daemon(command) => command.run(ui).await,
            Self::Doctor(command) => command.run(ui).await,
            Self::Config(command) => command.run(ui),
            Self::Completion(command) => command.run(ui),
            // The pages are the same on each host.
            Self::ManPages(command) => command.run(Cli::with_defaults(&crate::config::built_in_keys()), ui),
            Self::Version(command) => command.run(ui).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Finds commands and arguments without help, by their paths.
    fn without_help(command: &clap::Command, path: &str, missing: &mut Vec<String>) {
        if command.get_about().is_none() {
            missing.push(path.to_owned());
        }
        for argument in command.get_arguments().filter(|argument| argument.get_help().is_none()) {
            missing.push(format!("{path} {}", argument.get_id()));
        }
        for subcommand in command.get_subcommands() {
            without_help(subcommand, &format!("{path} {}", subcommand.get_name()), missing);
        }
    }

    #[test]
    fn every_command_and_argument_has_help_and_fits_the_others() {
        Cli::with_effective_defaults().debug_assert();
        let mut missing = Vec::new();
        without_help(&Cli::with_effective_defaults(), "banger", &mut missing);
        assert_eq!(missing, [] as [&str; 0]);
    }

    #[test]
    fn errors_are_json_if_the_command_prints_json() {
        for (line, is_json) in [
            ("banger ps", false),
            ("banger ps -o json", true),
            ("banger version", false),
            ("banger vm run . --dry-run -o json", true),
            ("banger vm workspace export box -o json", true),
            ("banger vm workspace export box --output json", false),
        ] {
            let matches = Cli::with_effective_defaults().try_get_matches_from(line.split(' ')).unwrap();
            assert_eq!(crate::ui::is_json(&matches), is_json, "{line}");
        }
    }

    #[test]
    fn the_help_shows_the_defaults_of_this_host() {
        let mut command = Cli::with_effective_defaults();
        let run = command.find_subcommand_mut("vm").and_then(|vm| vm.find_subcommand_mut("run"));
        let help = run.map(|run| run.render_long_help().to_string()).unwrap_or_default();
        for text in ["[env: BANGER_IMAGE]", "[default: ", "Examples:"] {
            assert!(help.contains(text), "no {text} in:\n{help}");
        }
    }
}
