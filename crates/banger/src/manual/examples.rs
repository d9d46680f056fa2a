//! The commands in the manual and in the help.

use banger_contract::{code_blocks, manual_pages};

use crate::{commands::Cli, config::built_in_keys};

/// Returns the words of each `banger` command in a shell's line, without comments, redirections and variables.
fn commands(line: &str) -> Vec<Vec<String>> {
    let line = line.split(" # ").next().unwrap_or_default();
    let parts =
        line.split(" && ").flat_map(|part| part.split(" | ")).flat_map(|part| part.split(" > ").take(1));
    let words = parts.filter_map(|part| {
        let words = shlex::split(part)?;
        let is_variable =
            |word: &String| word.split_once('=').is_some_and(|(name, _)| !name.starts_with('-'));
        Some(words.into_iter().skip_while(is_variable).collect::<Vec<_>>())
    });
    words.filter(|words| words.first().is_some_and(|word| word == "banger")).collect()
}

/// Returns the commands in the examples of `command` and of its subcommands.
fn help_examples(command: &clap::Command) -> Vec<Vec<String>> {
    let help = command.get_before_help().map(ToString::to_string).unwrap_or_default();
    // A command may continue on the next line.
    let help = help.replace("\\\n    ", "");
    let lines = help.lines().skip(1).map(|line| {
        // The rest of the line explains the command.
        line.trim().split("  ").next().unwrap_or_default()
    });
    let mut found: Vec<_> = lines.flat_map(commands).collect();
    found.extend(command.get_subcommands().flat_map(help_examples));
    found
}

#[test]
fn every_command_in_the_manual_and_in_the_help_is_valid() {
    let cli = Cli::with_defaults(&built_in_keys());
    let mut found = help_examples(&cli);
    let in_help = found.len();
    for page in manual_pages() {
        for block in code_blocks(&page).into_iter().filter(|block| block.language != "text") {
            let lines = block.lines.iter().map(|line| line.trim_start_matches("$ "));
            found.extend(lines.flat_map(commands));
        }
    }
    assert!(in_help > 60 && found.len() > in_help + 60, "{in_help} of {}", found.len());
    for words in found {
        if let Err(error) = cli.clone().try_get_matches_from(&words) {
            panic!("{words:?}: {error}");
        }
    }
}

#[test]
fn commands_are_found_among_other_words() {
    let words = |line: &str| commands(line).into_iter().map(|words| words.join(" ")).collect::<Vec<_>>();
    assert_eq!(
        words("A=1 banger ps -q | xargs true && banger version > file # banger"),
        ["banger ps -q", "banger version"]
    );
    assert_eq!(words("cargo xtask try"), [""; 0]);
    assert_eq!(commands("banger vm exec box -- sh -c 'a  b'")[0].last().unwrap(), "a  b");
}
