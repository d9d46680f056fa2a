//! Collects and validates what the readers find.

use std::fmt;

use super::{
    note::{Note, NoteKind, Place, shown},
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
const RESERVED_BEGINNINGS: &[&str] = &["LD_", "MISE_"];

/// A tool that a file requests.
#[derive(Debug, Clone)]
pub(super) struct RequestedTool {
    pub(super) name: ToolName,
    pub(super) version: Version,
    pub(super) source: Place,
    pub(super) reason: String,
    pub(super) range: Option<Range>,
    pub(super) components: Vec<Word>,
    pub(super) targets: Vec<Word>,
}

/// Everything found so far, in order of precedence.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) asked: Vec<RequestedTool>,
    pub(super) variables: Vec<Variable>,
    /// Ports and commands, once a file specifies them.
    pub(super) ports: Option<Vec<Port>>,
    pub(super) setup: Option<Vec<Command>>,
    /// The dev container file that was read first.
    pub(super) devcontainer: Option<Place>,
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
    pub(super) fn ask(&mut self, source: Place, name: &str, text: &str) -> Option<&mut RequestedTool> {
        let name = match normal(name).parse::<ToolName>() {
            Ok(name) => name,
            Err(why) if name.contains(':') => {
                let message = format_args!("{} names a backend, which is not supported ({why})", shown(name));
                return self.refuse(NoteKind::NotFollowed, source, message);
            }
            Err(why) => {
                let message = format_args!("{} is not a tool's name: {why}", shown(name));
                return self.refuse(NoteKind::Refused, source, message);
            }
        };
        match RequestedVersion::of(name.as_str(), text) {
            Ok(_) if self.asked.len() == MAX_TOOLS => {
                let message = format_args!("{name} is skipped: the limit is {MAX_TOOLS} tools");
                self.refuse(NoteKind::Refused, source, message)
            }
            Ok(RequestedVersion { version, reason, range }) => {
                let (components, targets) = Default::default();
                self.asked.push(RequestedTool { name, version, source, reason, range, components, targets });
                self.asked.last_mut()
            }
            Err(error @ (VersionError::NotAVersion(_) | VersionError::Nothing(_))) => {
                self.refuse(NoteKind::NotFollowed, source, format_args!("{name}: {error}"))
            }
            Err(error) => self.refuse(NoteKind::Refused, source, format_args!("{name}: {error}")),
        }
    }

    fn refuse(
        &mut self,
        kind: NoteKind,
        place: Place,
        message: impl fmt::Display,
    ) -> Option<&mut RequestedTool> {
        self.note(kind, place, message);
        None
    }

    /// Returns the valid `words`, such as a toolchain's components. The others are noted.
    pub(super) fn words(&mut self, place: Place, what: &str, words: &[&str]) -> Vec<Word> {
        let mut harmless = Vec::new();
        for text in words {
            match text.parse() {
                Ok(_) if harmless.len() == MAX_EXTRAS => {
                    let message = format_args!("there are more than {MAX_EXTRAS} {what}s");
                    self.note(NoteKind::Refused, place, message);
                    break;
                }
                Ok(word) => harmless.push(word),
                Err(why) => {
                    let message = format_args!("{} is not a {what}: {why}", shown(text));
                    self.note(NoteKind::Refused, place, message);
                }
            }
        }
        harmless
    }

    /// Adds an environment variable. An invalid one is noted. The first of each name wins.
    pub(super) fn variable(&mut self, source: Place, name: &str, value: &str) {
        match variable(source, name, value) {
            Ok(variable) => self.take(variable),
            Err(why) => {
                self.note(NoteKind::Refused, source, format_args!("the variable {}: {why}", shown(name)));
            }
        }
    }

    fn take(&mut self, variable: Variable) {
        let Variable { name, value, source } = &variable;
        match self.variables.iter().find(|earlier| earlier.name == *name) {
            Some(earlier) if earlier.value == *value => {}
            Some(earlier) => {
                let message = format!(
                    "the variable {name}: {} sets another value and takes precedence",
                    earlier.source
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
    pub(super) fn note(&mut self, kind: NoteKind, place: Place, message: impl fmt::Display) {
        if self.notes.len() == MAX_NOTES {
            self.left_out += 1;
        } else {
            self.notes.push(Note::new(kind, place, message));
        }
    }

    /// Returns all notes, and one with the number of notes left out.
    pub(super) fn into_notes(self) -> Vec<Note> {
        let Self { mut notes, left_out, .. } = self;
        if let Some(last) = notes.last().filter(|_| left_out > 0) {
            let message = format_args!("{left_out} more notes are not shown");
            notes.push(Note::new(NoteKind::Refused, last.place, message));
        }
        notes
    }

    #[cfg(test)]
    pub(super) fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// Returns the requests, each as `name version`.
    #[cfg(test)]
    pub(super) fn asked_for(&self) -> Vec<String> {
        self.asked.iter().map(|asked| format!("{} {}", asked.name, asked.version)).collect()
    }

    /// Returns the notes, each as `line: message`.
    #[cfg(test)]
    pub(super) fn messages(&self) -> Vec<String> {
        let line = |place: Place| place.line.map(|line| format!("{line}: ")).unwrap_or_default();
        self.notes.iter().map(|note| format!("{}{}", line(note.place), note.message)).collect()
    }
}

/// Converts tools' alternative names, as mise does.
fn normal(name: &str) -> &str {
    match name {
        "nodejs" => "node",
        "golang" => "go",
        "python3" => "python",
        "openjdk" => "java",
        "dotnet-core" => "dotnet",
        name => name,
    }
}

fn variable(source: Place, name: &str, value: &str) -> Result<Variable, String> {
    let name: VariableName = name.parse().map_err(|why| format!("its name cannot be used: {why}"))?;
    let is_reserved = RESERVED.contains(&name.as_str())
        || RESERVED_BEGINNINGS.iter().any(|beginning| name.as_str().starts_with(beginning));
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

    const PLACE: Place = Place { file: "f", line: Some(1) };

    #[test]
    fn names_are_those_of_mise_and_harmless() {
        let mut found = Findings::default();
        for (name, version) in
            [("nodejs", "20"), ("golang", "1.22"), ("npm:x", "1"), ("-g", "1"), ("a", ";id"), ("b", "system")]
        {
            found.ask(PLACE, name, version);
        }
        assert_eq!(found.asked_for(), ["node 20", "go 1.22"]);
        let kinds: Vec<_> = found.notes().iter().map(|note| note.kind).collect();
        assert_eq!(
            kinds,
            [NoteKind::NotFollowed, NoteKind::Refused, NoteKind::Refused, NoteKind::NotFollowed]
        );
    }

    #[test]
    fn variables_are_bounded_and_not_the_guests_own() {
        let mut found = Findings::default();
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
            found.variable(PLACE, name, value);
        }
        assert_eq!(found.variables.len(), 1);
        assert_eq!(
            found.messages(),
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
    fn no_repository_fills_the_memory() {
        let mut found = Findings::default();
        for number in 0..1000 {
            found.ask(PLACE, &format!("t{number}"), "1");
            found.variable(PLACE, &format!("V{number}"), "1");
        }
        assert_eq!((found.asked.len(), found.variables.len()), (MAX_TOOLS, MAX_VARIABLES));
        assert_eq!(found.words(PLACE, "target", &["a"; 100]).len(), MAX_EXTRAS);
        let notes = found.into_notes();
        assert_eq!(notes.len(), MAX_NOTES + 1);
        assert_eq!(notes.last().unwrap().message, "1489 more notes are not shown");
    }
}
