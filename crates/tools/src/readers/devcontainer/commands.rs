//! Reads the lifecycle commands of a dev container.

use serde_json::{Map, Value};

use crate::{
    findings::Findings,
    note::{Location, NoteKind, quoted},
    plan::{Command, Run},
    readers::json::brief,
};

/// Maximum number of commands read from a file.
const MAX_COMMANDS: usize = 64;

/// Maximum length of a command with all its arguments, in bytes.
const MAX_LENGTH: usize = 16 << 10;

/// The lifecycle keys: after creation, after a content update, after the first update, at each start.
const KEYS: &[&str] = &["onCreateCommand", "updateContentCommand", "postCreateCommand", AT_EACH_START];
pub(super) const AT_EACH_START: &str = "postStartCommand";

/// Variables that dev containers substitute, besides the three that [`Run`] leaves to the environment.
const UNSUPPORTED_VARIABLES: &[&str] =
    &["${localEnv:", "${containerEnv:", "${localWorkspaceFolder}", "${devcontainerId}"];
const FROM_ENVIRONMENT: &[&str] = &["${containerWorkspaceFolder", "${localWorkspaceFolderBasename}"];

pub(super) fn read(source: Location, object: &Map<String, Value>, findings: &mut Findings) -> Vec<Command> {
    let mut commands = Vec::new();
    for key in KEYS.iter().copied() {
        let visit = |name: Option<&str>, value: &Value, findings: &mut Findings| match run(value) {
            Ok(_) if commands.len() == MAX_COMMANDS => {
                let message = format_args!("{key} is skipped: the limit is {MAX_COMMANDS} commands");
                findings.note(NoteKind::Refused, source, message);
            }
            Ok(run) => commands.push(Command { source, key, name: name.map(ToOwned::to_owned), run }),
            Err(error) => {
                let name = name.map(|name| format!(" {}", quoted(name))).unwrap_or_default();
                findings.note(error.kind(), source, format_args!("{key}{name}: {error}"));
            }
        };
        each(object.get(key), findings, visit);
    }
    commands
}

/// Calls `visit` with each command of a value: an object names several, anything else is one.
fn each(
    value: Option<&Value>,
    findings: &mut Findings,
    mut visit: impl FnMut(Option<&str>, &Value, &mut Findings),
) {
    match value {
        None | Some(Value::Null) => {}
        Some(Value::Object(several)) => {
            several.iter().for_each(|(name, value)| visit(Some(name), value, findings))
        }
        Some(one) => visit(None, one, findings),
    }
}

/// Errors of a command that is left out.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error("{0} is not a command")]
    Shape(String),
    #[error("it is empty")]
    Empty,
    #[error("it has a NUL in it")]
    Nul,
    #[error("it is longer than {} KiB", MAX_LENGTH >> 10)]
    TooLong,
    #[error("{0}…}} is not supported")]
    UnsupportedVariable(&'static str),
}

impl CommandError {
    fn kind(&self) -> NoteKind {
        match self {
            Self::Shape(_) => NoteKind::Unread,
            Self::Empty | Self::UnsupportedVariable(_) => NoteKind::NotFollowed,
            Self::Nul | Self::TooLong => NoteKind::Refused,
        }
    }
}

fn run(value: &Value) -> Result<Run, CommandError> {
    let shape = || CommandError::Shape(brief(value));
    match value {
        Value::String(text) => {
            check(&[text], UNSUPPORTED_VARIABLES)?;
            Ok(Run::Shell(text.clone()))
        }
        Value::Array(values) => {
            let words: Option<Vec<_>> = values.iter().map(Value::as_str).collect();
            let words = words.ok_or_else(shape)?;
            check(&words, UNSUPPORTED_VARIABLES)?;
            check(&words, FROM_ENVIRONMENT)?;
            Ok(Run::Program(words.into_iter().map(ToOwned::to_owned).collect()))
        }
        _ => Err(shape()),
    }
}

fn check(words: &[impl AsRef<str>], unsupported: &[&'static str]) -> Result<(), CommandError> {
    let words = || words.iter().map(AsRef::as_ref);
    if words().next().is_none_or(|first| first.trim().is_empty()) {
        return Err(CommandError::Empty);
    }
    if words().map(str::len).sum::<usize>() > MAX_LENGTH {
        return Err(CommandError::TooLong);
    }
    if words().any(|word| word.contains('\0')) {
        return Err(CommandError::Nul);
    }
    match unsupported.iter().find(|name| words().any(|word| word.contains(**name))) {
        Some(name) => Err(CommandError::UnsupportedVariable(name.trim_end_matches('}'))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_value(value: Value) -> (Vec<Command>, Vec<String>) {
        let mut findings = Findings::default();
        let commands = read(Location::file("f"), value.as_object().unwrap(), &mut findings);
        (commands, findings.messages())
    }

    #[test]
    fn all_command_forms_are_read_in_lifecycle_order() {
        let (commands, notes) = read_value(serde_json::json!({
            "postStartCommand": "make serve",
            "postCreateCommand": {"web": "npm ci", "db": ["createdb", "a b"]},
            "onCreateCommand": ["make", "$(id)"],
            "updateContentCommand": "git config --add safe.directory ${containerWorkspaceFolder}",
        }));
        assert_eq!(notes, [""; 0]);
        insta::assert_snapshot!(serde_json::to_string_pretty(&commands).unwrap());
    }

    #[test]
    fn invalid_commands_are_skipped_and_noted() {
        let long = "a".repeat(MAX_LENGTH + 1);
        for (value, note) in [
            (serde_json::json!(1), "postCreateCommand: 1 is not a command"),
            (serde_json::json!(["a", 1]), "postCreateCommand: a list is not a command"),
            (serde_json::json!({"x\n": {}}), "postCreateCommand \"x\\n\": an object is not a command"),
            (serde_json::json!(" "), "postCreateCommand: it is empty"),
            (serde_json::json!([]), "postCreateCommand: it is empty"),
            (serde_json::json!("a\0b"), "postCreateCommand: it has a NUL in it"),
            (serde_json::json!(long), "postCreateCommand: it is longer than 16 KiB"),
            (serde_json::json!("echo ${localEnv:HOME}"), "postCreateCommand: ${localEnv:…} is not supported"),
            (
                serde_json::json!(["ls", "${containerWorkspaceFolder}"]),
                "postCreateCommand: ${containerWorkspaceFolder…} is not supported",
            ),
        ] {
            let (commands, notes) = read_value(serde_json::json!({"postCreateCommand": value}));
            assert_eq!((commands, notes), (vec![], vec![note.to_owned()]));
        }
        assert_eq!(read_value(serde_json::json!({"postCreateCommand": null})), (vec![], vec![]));
    }

    #[test]
    fn the_number_of_commands_is_limited() {
        let several: Map<_, _> = (0..100).map(|number| (number.to_string(), "a".into())).collect();
        let (commands, notes) = read_value(serde_json::json!({"onCreateCommand": several}));
        assert_eq!((commands.len(), notes.len()), (MAX_COMMANDS, 100 - MAX_COMMANDS));
    }
}
