//! Collects and validates what the readers find.

use std::fmt;

use super::{
    note::{Location, Note, NoteKind, quoted},
    plan::{Command, Port, Variable},
    range::Range,
    requested::{RequestedVersion, VersionError},
    word::{ToolName, VariableName, Version, Word},
};

/// Maximum numbers of each that a repository may request.
const MAX_TOOLS: usize = 128;
const MAX_VARIABLES: usize = 256;
const MAX_EXTRAS: usize = 32;
const MAX_NOTES: usize = 128;

/// Maximum length of a variable's value, in bytes. Linux accepts less than 128 KiB; real values need less than 4 KiB.
const MAX_VALUE: usize = 4 << 10;

/// Variables that determine which programs the guest runs and trusts.
const RESERVED: &[&str] = &["PATH", "HOME", "USER", "LOGNAME", "SHELL", "IFS", "ENV", "BASH_ENV"];
const RESERVED_PREFIXES: &[&str] = &["LD_", "MISE_"];

/// A tool that a file requests.
#[derive(Debug, Clone)]
pub(super) struct RequestedTool {
    pub(super) name: ToolName,
    pub(super) version: Version,
    pub(super) source: Location,
    pub(super) reason: String,
    pub(super) range: Option<Range>,
    pub(super) components: Vec<Word>,
    pub(super) targets: Vec<Word>,
}

/// Everything found so far, in order of precedence.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) requests: Vec<RequestedTool>,
    pub(super) variables: Vec<Variable>,
    /// Ports and commands, once a file specifies them.
    pub(super) ports: Option<Vec<Port>>,
    pub(super) setup: Option<Vec<Command>>,
    /// The dev container file that was read first.
    pub(super) devcontainer: Option<Location>,
    /// The name of the repository's directory, if known.
    pub(super) basename: Option<String>,
    notes: Vec<Note>,
    left_out: usize,
}

impl Findings {
    pub(super) fn new(basename: Option<String>) -> Self {
        Self { basename, ..Self::default() }
    }

    /// Adds a tool with the version in `text`, and returns it. Invalid values are noted.
    pub(super) fn request(&mut self, source: Location, name: &str, text: &str) -> Option<&mut RequestedTool> {
        let name = match canonical_name(name).parse::<ToolName>() {
            Ok(name) => name,
            Err(error) if name.contains(':') => {
                let message =
                    format_args!("{} names a backend, which is not supported ({error})", quoted(name));
                return self.refuse(NoteKind::NotFollowed, source, message);
            }
            Err(error) => {
                let message = format_args!("{} is not a tool's name: {error}", quoted(name));
                return self.refuse(NoteKind::Refused, source, message);
            }
        };
        match RequestedVersion::of(name.as_str(), text) {
            Ok(_) if self.requests.len() == MAX_TOOLS => {
                let message = format_args!("{name} is skipped: the limit is {MAX_TOOLS} tools");
                self.refuse(NoteKind::Refused, source, message)
            }
            Ok(RequestedVersion { version, reason, range }) => {
                let (components, targets) = Default::default();
                self.requests.push(RequestedTool {
                    name,
                    version,
                    source,
                    reason,
                    range,
                    components,
                    targets,
                });
                self.requests.last_mut()
            }
            Err(error @ (VersionError::NotAVersion(_) | VersionError::NoVersion(_))) => {
                self.refuse(NoteKind::NotFollowed, source, format_args!("{name}: {error}"))
            }
            Err(error) => self.refuse(NoteKind::Refused, source, format_args!("{name}: {error}")),
        }
    }

    fn refuse(
        &mut self,
        kind: NoteKind,
        location: Location,
        message: impl fmt::Display,
    ) -> Option<&mut RequestedTool> {
        self.note(kind, location, message);
        None
    }

    /// Returns the valid `words`, such as a toolchain's components. The others are noted.
    pub(super) fn words(&mut self, location: Location, what: &str, words: &[&str]) -> Vec<Word> {
        let mut valid = Vec::new();
        for text in words {
            match text.parse() {
                Ok(_) if valid.len() == MAX_EXTRAS => {
                    let message = format_args!("there are more than {MAX_EXTRAS} {what}s");
                    self.note(NoteKind::Refused, location, message);
                    break;
                }
                Ok(word) => valid.push(word),
                Err(error) => {
                    let message = format_args!("{} is not a {what}: {error}", quoted(text));
                    self.note(NoteKind::Refused, location, message);
                }
            }
        }
        valid
    }

    /// Adds an environment variable. An invalid one is noted. The first of each name wins.
    pub(super) fn variable(&mut self, source: Location, name: &str, value: &str) {
        match variable(source, name, value) {
            Ok(variable) => self.add_variable(variable),
            Err(error) => {
                self.note(NoteKind::Refused, source, format_args!("the variable {}: {error}", quoted(name)));
            }
        }
    }

    fn add_variable(&mut self, variable: Variable) {
        let Variable { name, value, source } = &variable;
        match self.variables.iter().find(|existing| existing.name == *name) {
            Some(existing) if existing.value == *value => {}
            Some(existing) => {
                let message = format!(
                    "the variable {name}: {} sets another value and takes precedence",
                    existing.source
                );
                self.note(NoteKind::Overruled, *source, message);
            }
            None if self.variables.len() == MAX_VARIABLES => {
                let message = format!("{name} is skipped: the limit is {MAX_VARIABLES} variables");
                self.note(NoteKind::Refused, *source, message);
            }
            None => self.variables.push(variable),
        }
    }

    /// Adds a note.
    pub(super) fn note(&mut self, kind: NoteKind, location: Location, message: impl fmt::Display) {
        if self.notes.len() == MAX_NOTES {
            self.left_out += 1;
        } else {
            self.notes.push(Note::new(kind, location, message));
        }
    }

    /// Returns all notes, and one with the number of notes left out.
    pub(super) fn into_notes(self) -> Vec<Note> {
        let Self { mut notes, left_out, .. } = self;
        if let Some(last) = notes.last().filter(|_| left_out > 0) {
            let message = format_args!("{left_out} more notes are not shown");
            notes.push(Note::new(NoteKind::Refused, last.location, message));
        }
        notes
    }

    #[cfg(test)]
    pub(super) fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// Returns the requests, each as `name version`.
    #[cfg(test)]
    pub(super) fn requested(&self) -> Vec<String> {
        self.requests.iter().map(|request| format!("{} {}", request.name, request.version)).collect()
    }

    /// Returns the notes, each as `line: message`.
    #[cfg(test)]
    pub(super) fn messages(&self) -> Vec<String> {
        let line = |location: Location| location.line.map(|line| format!("{line}: ")).unwrap_or_default();
        self.notes.iter().map(|note| format!("{}{}", line(note.location), note.message)).collect()
    }
}

/// Converts tools' alternative names, as mise does.
fn canonical_name(name: &str) -> &str {
    match name {
        "nodejs" => "node",
        "golang" => "go",
        "python3" => "python",
        "openjdk" => "java",
        "dotnet-core" => "dotnet",
        name => name,
    }
}

fn variable(source: Location, name: &str, value: &str) -> Result<Variable, String> {
    let name: VariableName = name.parse().map_err(|error| format!("its name cannot be used: {error}"))?;
    let is_reserved = RESERVED.contains(&name.as_str())
        || RESERVED_PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix));
    if is_reserved {
        return Err("it is reserved for the guest".to_owned());
    }
    if value.len() > MAX_VALUE {
        return Err(format!("its value is longer than {} KiB", MAX_VALUE >> 10));
    }
    if value.contains('\0') {
        return Err("its value has a NUL in it".to_owned());
    }
    Ok(Variable { name, value: value.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCATION: Location = Location { file: "f", line: Some(1) };

    #[test]
    fn names_are_converted_to_those_of_mise_and_validated() {
        let mut findings = Findings::default();
        for (name, version) in
            [("nodejs", "20"), ("golang", "1.22"), ("npm:x", "1"), ("-g", "1"), ("a", ";id"), ("b", "system")]
        {
            findings.request(LOCATION, name, version);
        }
        assert_eq!(findings.requested(), ["node 20", "go 1.22"]);
        let kinds: Vec<_> = findings.notes().iter().map(|note| note.kind).collect();
        assert_eq!(
            kinds,
            [NoteKind::NotFollowed, NoteKind::Refused, NoteKind::Refused, NoteKind::NotFollowed]
        );
    }

    #[test]
    fn conflicting_reserved_and_invalid_variables_are_noted() {
        let mut findings = Findings::default();
        let long = "a".repeat(MAX_VALUE + 1);
        for (name, value) in [
            ("A", "1"),
            ("A", "1"),
            ("A", "2"),
            ("PATH", "/x"),
            ("LD_PRELOAD", "x"),
            ("B=", "1"),
            ("C", "a\0b"),
            ("D", &long),
        ] {
            findings.variable(LOCATION, name, value);
        }
        assert_eq!(findings.variables.len(), 1);
        assert_eq!(
            findings.messages(),
            [
                "1: the variable A: f:1 sets another value and takes precedence",
                "1: the variable \"PATH\": it is reserved for the guest",
                "1: the variable \"LD_PRELOAD\": it is reserved for the guest",
                "1: the variable \"B=\": its name cannot be used: '=' at position 2 is not allowed: use letters, \
                 digits and _",
                "1: the variable \"C\": its value has a NUL in it",
                "1: the variable \"D\": its value is longer than 4 KiB",
            ]
        );
    }

    #[test]
    fn the_number_of_findings_is_limited() {
        let mut findings = Findings::default();
        for number in 0..1000 {
            findings.request(LOCATION, &format!("t{number}"), "1");
            findings.variable(LOCATION, &format!("V{number}"), "1");
        }
        assert_eq!((findings.requests.len(), findings.variables.len()), (MAX_TOOLS, MAX_VARIABLES));
        assert_eq!(findings.words(LOCATION, "target", &["a"; 100]).len(), MAX_EXTRAS);
        let notes = findings.into_notes();
        assert_eq!(notes.len(), MAX_NOTES + 1);
        assert_eq!(notes.last().unwrap().message, "1489 more notes are not shown");
    }
}
