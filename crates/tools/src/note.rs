//! Notes about the parts of a repository's files that cannot be used.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

/// Maximum length of a note's message, in characters.
const MAX_MESSAGE: usize = 400;

/// Maximum length of a repository's text that a message quotes, in characters.
const MAX_QUOTED: usize = 64;

/// A place in the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Location {
    /// The file, relative to the repository's root.
    pub file: &'static str,
    /// The line, counted from 1, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
}

impl Location {
    pub(super) fn file(file: &'static str) -> Self {
        Self { file, line: None }
    }

    pub(super) fn line(file: &'static str, line: usize) -> Self {
        Self { file, line: Some(line) }
    }
}

impl fmt::Display for Location {
    /// `FILE` or `FILE:LINE`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}", self.file),
            None => f.write_str(self.file),
        }
    }
}

/// The kind of a note.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NoteKind {
    /// A file cannot be read, or its format is wrong.
    Unread,
    /// A name or value is invalid, or exceeds a limit.
    Refused,
    /// Another place takes precedence.
    Overruled,
    /// The request is understood, but not carried out.
    NotFollowed,
}

/// A part of the repository's files that is not in the plan, and the reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Note {
    /// The kind of this note.
    pub kind: NoteKind,
    /// The place of that part.
    #[serde(flatten)]
    pub location: Location,
    /// The message: one line, without control characters.
    pub message: String,
}

impl Note {
    /// Creates a note. A message may quote parsers and the repository, so control characters are removed: they could
    /// move a terminal's cursor.
    pub(super) fn new(kind: NoteKind, location: Location, message: impl fmt::Display) -> Self {
        let message = message.to_string();
        let clean = message.chars().map(|c| if c.is_control() { ' ' } else { c });
        Self { kind, location, message: clean.take(MAX_MESSAGE).collect() }
    }
}

impl fmt::Display for Note {
    /// `FILE:LINE: MESSAGE`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.location, self.message)
    }
}

/// Formats a repository's text for a message: quoted, escaped, shortened.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED) {
        Some((end, _)) => format!("{:?}…", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_cannot_move_the_cursor_or_fill_the_screen() {
        let text = format!("a\u{1b}[2J\u{202e}\n{}", "b".repeat(1000));
        let note = Note::new(NoteKind::Refused, Location::line("x", 2), format!("{} {text}", quoted(&text)));
        assert!(note.message.starts_with("\"a\\u{1b}[2J\\u{202e}\\nb"), "{}", note.message);
        assert!(note.message.contains("b\"… a [2J"), "{}", note.message);
        assert_eq!(note.message.chars().count(), MAX_MESSAGE);
        assert_eq!(
            (note.location.to_string().as_str(), Location::file("y").to_string().as_str()),
            ("x:2", "y")
        );
    }
}
