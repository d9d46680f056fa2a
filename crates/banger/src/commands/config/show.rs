use std::process::ExitCode;

use banger_api::config::{ShownKey, variables};

use crate::{
    error::CommandError,
    ui::{Format, Table, Ui},
};

/// Show each value that applies here, and where it comes from
///
/// A command's flag beats the environment, which beats banger.toml (the nearest one from the working folder, or from the
/// PATH of `vm run PATH`, up to the root of its git repository), which beats ~/.config/banger/config.toml, which beats
/// /etc/banger/config.toml, which beats what is built in. A file that is changed applies from the next command on. What
/// banger.toml says of its workspace is shown by `vm run PATH --dry-run`.
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
        let keys = crate::config::load()?.shown();
        ui.list(&self.format, &keys, |key| key.key.clone(), table)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn table(keys: &[ShownKey]) -> Table {
    let mut table = Table::new(["KEY", "VALUE", "FROM", "WHERE"]);
    for key in keys {
        let place = if key.layer == key.origin { String::new() } else { key.origin.clone() };
        table.row([key.key.clone(), key.value.clone(), key.layer.to_owned(), place]);
    }
    table
}

/// Puts all environment variables below the help.
pub(in crate::commands) fn with_variables(command: clap::Command) -> clap::Command {
    let variables = variables();
    let widest = variables.iter().map(|variable| variable.name.len()).max().unwrap_or(0);
    let lines: Vec<_> =
        variables.iter().map(|variable| format!("  {:widest$}  {}", variable.name, variable.help)).collect();
    command.after_help(format!("Environment:\n{}", lines.join("\n")))
}
