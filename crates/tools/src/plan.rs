//! The plan: everything that a repository requests.

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    note::{Location, Note},
    word::{ToolName, VariableName, Version, Word},
};

/// Maximum length of a command's label, in characters.
const MAX_LABEL: usize = 80;

/// Everything that a repository requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Plan {
    /// Tools, each once; those that others run on come first.
    pub tools: Vec<Tool>,
    /// Environment variables, each once.
    pub env: Vec<Variable>,
    /// Guest ports to forward to the host.
    pub ports: Vec<Port>,
    /// Commands to run in a new guest, in this order, after its tools are installed.
    pub setup: Vec<Command>,
    /// Name of the repository's directory on the host, if known.
    #[serde(skip)]
    pub dir_name: Option<String>,
    /// Parts of the files that are not in the plan.
    pub notes: Vec<Note>,
}

/// A tool to install.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Tool {
    /// Its name in mise.
    pub name: ToolName,
    /// The version to request: a version, the beginning of one, a channel, or `latest`.
    pub version: Version,
    /// Location of the request.
    pub source: Location,
    /// How the version follows from the request, as text for the user.
    pub reason: String,
    /// Components of a toolchain.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<Word>,
    /// Targets of a toolchain.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<Word>,
}

/// An environment variable. The repository chooses its value, which is only for a guest and never part of a shell
/// script.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Variable {
    /// Its name.
    pub name: VariableName,
    /// Its value: at most 4 KiB, without NUL.
    pub value: String,
    /// Location of the definition.
    pub source: Location,
}

/// A port of the guest, and the port on the host's loopback that is forwarded to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Port {
    /// Port on the host.
    pub host: u16,
    /// Port in the guest.
    pub guest: u16,
    /// Whether it is a port of UDP, not of TCP.
    pub udp: bool,
    /// Location of the request.
    pub source: Location,
}

/// The settings of the project's own file. They take precedence over all others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProjectSettings {
    /// Environment variables: place, name and value. An invalid one becomes a note.
    pub env: Vec<(Location, String, String)>,
    /// Ports that replace all others, if set.
    pub ports: Option<Vec<Port>>,
    /// Commands that replace all others, if set.
    pub setup: Option<Vec<Command>>,
}

/// A command of the repository, which runs only in a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Command {
    /// Location of the request.
    pub source: Location,
    /// Its key: `setup`, or a dev container's lifecycle key.
    pub key: &'static str,
    /// Its name, if one key has several commands that may run in parallel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The shell script or program to run.
    pub run: Run,
}

/// A shell script or a program. Neither contains a NUL.
///
/// A shell script may use `${containerWorkspaceFolder}`, `${containerWorkspaceFolderBasename}` and
/// `${localWorkspaceFolderBasename}`. The caller sets them as environment variables, so that no value becomes part of
/// the script.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Run {
    /// A script for the guest's `/bin/sh -c`.
    Shell(String),
    /// A program and its arguments, without a shell.
    Program(Vec<String>),
}

impl Command {
    /// Returns the beginning of the command as one line.
    pub fn label(&self) -> String {
        let text = match &self.run {
            Run::Shell(text) => text.trim().to_owned(),
            Run::Program(words) => words.join(" "),
        };
        let mut label: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if let Some((end, _)) = label.char_indices().nth(MAX_LABEL) {
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
        let source = Location { file: "banger.toml", line: None };
        let label = |text: &str| {
            Command { source, key: "setup", name: None, run: Run::Shell(text.to_owned()) }.label()
        };
        assert_eq!(label(" a\n\tb\u{1b}[2J "), "a  b [2J");
        assert_eq!(label(&"é".repeat(100)).chars().count(), MAX_LABEL + 1);
    }
}
