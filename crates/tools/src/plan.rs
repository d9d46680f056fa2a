//! The plan: what a repository asks for.

use serde::Serialize;

use crate::{
    note::{Note, Place},
    word::{ToolName, VariableName, Version, Word},
};

/// Longest that a command is called in the log, in characters.
const LONGEST_LABEL: usize = 80;

/// What a repository asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The tools, each once; those that others run on come first.
    pub tools: Vec<Tool>,
    /// The environment, each variable once.
    pub env: Vec<Variable>,
    /// Ports of the guest to bring to the host.
    pub ports: Vec<Port>,
    /// What to run in a fresh guest, in this order, once its tools are ready.
    pub setup: Vec<Command>,
    /// The name of the repository's folder here, if it can be told.
    #[serde(skip)]
    pub folder: Option<String>,
    /// What is in its files and not in the plan.
    pub notes: Vec<Note>,
}

/// A tool to make ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tool {
    /// Its name, as mise has it.
    pub name: ToolName,
    /// What to ask for: a version, the beginning of one, a channel, or `latest`.
    pub version: Version,
    /// Where that is said.
    pub source: Place,
    /// How the version came of what is said there, for people.
    pub reason: String,
    /// Components of a toolchain.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<Word>,
    /// Targets of a toolchain.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<Word>,
}

/// An environment variable. Its value is the repository's: for a guest only, and never part of a shell's text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Variable {
    /// Its name.
    pub name: VariableName,
    /// Its value: at most 4 KiB, without NUL.
    pub value: String,
    /// Where that is said.
    pub source: Place,
}

/// A port of the guest, and the one on the host's loopback that is to lead to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Port {
    /// On the host.
    pub host: u16,
    /// In the guest.
    pub guest: u16,
    /// Where that is said.
    pub source: Place,
}

/// What the project's own file says. It wins over all others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Own {
    /// Variables: where each is said, its name and its value. One that cannot be used becomes a note.
    pub env: Vec<(Place, String, String)>,
    /// Ports, in place of all others, if it says.
    pub ports: Option<Vec<Port>>,
    /// What to run, in place of all else, if it says.
    pub setup: Option<Vec<Command>>,
}

/// A command of the repository's own, for a guest only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Command {
    /// Where it is asked for.
    pub source: Place,
    /// The key that asks for it: `setup`, or that of a moment in a dev container's life.
    pub key: &'static str,
    /// Its name, where several of one key may be run side by side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What is run.
    pub run: Run,
}

/// What a command runs. Neither form has a NUL in it.
///
/// A shell's text may name `${containerWorkspaceFolder}`, `${containerWorkspaceFolderBasename}` and
/// `${localWorkspaceFolderBasename}`: who runs it gives them as environment variables, so that no value gets into the text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Run {
    /// A text for the guest's `/bin/sh -c`.
    Shell(String),
    /// A program and its arguments, without a shell.
    Program(Vec<String>),
}

impl Command {
    /// What it is called: its beginning in one line.
    pub fn label(&self) -> String {
        let text = match &self.run {
            Run::Shell(text) => text.trim().to_owned(),
            Run::Program(words) => words.join(" "),
        };
        let mut label: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if let Some((end, _)) = label.char_indices().nth(LONGEST_LABEL) {
            label.truncate(end);
            label.push('…');
        }
        label
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_one_short_line() {
        let source = Place { file: "banger.toml", line: None };
        let label = |text: &str| {
            Command { source, key: "setup", name: None, run: Run::Shell(text.to_owned()) }.label()
        };
        assert_eq!(label(" a\n\tb\u{1b}[2J "), "a  b [2J");
        assert_eq!(label(&"é".repeat(100)).chars().count(), LONGEST_LABEL + 1);
    }
}
