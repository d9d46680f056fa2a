use std::process::ExitCode;

use banger_api::config::{ConfigEntry, variables};

use crate::{
    error::CommandError,
    ui::{Format, Table, Ui},
};

/// Show each configuration value and its source
///
/// In order of precedence: a command's flag; the environment; banger.toml, the nearest one from the current directory
/// (or from the PATH of `vm run PATH`) up to the root of its git repository; ~/.config/banger/config.toml;
/// /etc/banger/config.toml; the built-in default. A change to a file applies from the next command on. For the
/// workspace settings in banger.toml, see `vm run PATH --dry-run`.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger config show
  BANGER_MEMORY=4G banger config show -o json")]
pub(crate) struct Show {
    #[command(flatten)]
    format: Format,
}

impl Show {
    pub(crate) fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let keys = crate::config::load()?.entries();
        ui.list(&self.format, &keys, |key| key.key.clone(), table)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn table(keys: &[ConfigEntry]) -> Table {
    let mut table = Table::new(["KEY", "VALUE", "SOURCE", "LOCATION"]);
    for key in keys {
        let location = if key.layer == key.origin { String::new() } else { key.origin.clone() };
        table.row([key.key.clone(), key.value.clone(), key.layer.to_owned(), location]);
    }
    table
}

/// Adds all environment variables below the help.
pub(in crate::commands) fn with_variables(command: clap::Command) -> clap::Command {
    let variables = variables();
    let widest = variables.iter().map(|variable| variable.name.len()).max().unwrap_or(0);
    let lines: Vec<_> =
        variables.iter().map(|variable| format!("  {:widest$}  {}", variable.name, variable.help)).collect();
    command.after_help(format!("Environment:\n{}", lines.join("\n")))
}
