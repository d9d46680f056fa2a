//! The generated pages of the manual, compared with the code that they describe, and the commands in all others.
//!
//! `UPDATE_CONTRACTS=1 cargo test -p banger manual` writes them anew.

mod errors;
mod examples;
mod output;

use std::fmt::Write as _;

use banger_api::config::{KEYS, Scope, variables};

use crate::{commands::Cli, config::built_in_keys};

const GENERATED: &str =
    "<!-- Generated from the code by `UPDATE_CONTRACTS=1 cargo test -p banger manual`. -->\n";

/// Adds `command`, called `path`, and its subcommands to `page`.
fn add_help(page: &mut String, path: &str, command: &mut clap::Command) {
    let help = command.render_long_help().to_string();
    let lines = help.trim_end().lines().map(|line| line.trim_end());
    let _ = write!(page, "\n## {path}\n\n```text\n{}\n```\n", lines.collect::<Vec<_>>().join("\n"));
    let mut inner: Vec<_> = command.get_subcommands_mut().filter(|inner| !inner.is_hide_set()).collect();
    inner.retain(|inner| inner.get_name() != "help");
    inner.sort_by_key(|inner| inner.get_name().to_owned());
    for inner in inner {
        add_help(page, &format!("{path} {}", inner.get_name()), inner);
    }
}

#[test]
fn every_command_and_its_options() {
    let mut command = Cli::with_defaults(&built_in_keys()).term_width(100);
    command.build();
    let mut page = format!("# Commands\n\n{GENERATED}\nThe help of every command, as `--help` prints it.\n");
    add_help(&mut page, "banger", &mut command);
    banger_contract::check("docs/src/reference/commands.md", &page);
}

#[test]
fn every_configuration_key_and_variable() {
    let mut page = format!(
        "# Configuration\n\n{GENERATED}\n[Configure banger](../guide/configuration.md) explains where settings can be \
         and their precedence.\n\n## Keys\n\n| key | default | environment variable | in `banger.toml` | meaning |\n\
         |---|---|---|---|---|\n"
    );
    for (key, entry) in KEYS.iter().zip(built_in_keys()) {
        let variable = key.variable.map_or(String::new(), |name| format!("`{name}`"));
        let in_project = if key.scope == Scope::Project { "yes" } else { "no" };
        let (name, default) = (&entry.key, &entry.value);
        let _ = writeln!(page, "| `{name}` | {default} | {variable} | {in_project} | {} |", key.help);
    }
    page.push_str("\n## Other environment variables\n\n| variable | meaning |\n|---|---|\n");
    for variable in
        variables().into_iter().filter(|variable| KEYS.iter().all(|key| key.variable != Some(variable.name)))
    {
        let _ = writeln!(page, "| `{}` | {} |", variable.name, variable.help);
    }
    banger_contract::check("docs/src/reference/configuration.md", &page);
}
