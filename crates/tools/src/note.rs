//! What could not be used of a repository's files, and where it is.

use std::fmt;

use serde::Serialize;

/// Longest message of a note, in characters.
const LONGEST: usize = 400;

/// Most characters of a repository's own that a message repeats.
const SHOWN: usize = 64;

/// A place in the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The file, from the repository's root.
    pub file: &'static str,
    /// The line, counted from 1, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
}

impl Place {
    pub(super) fn file(file: &'static str) -> Self {
        Self { file, line: None }
    }

    pub(super) fn line(file: &'static str, line: usize) -> Self {
        Self { file, line: Some(line) }
    }
}

impl fmt::Display for Place {
    /// `FILE` or `FILE:LINE`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}", self.file),
            None => f.write_str(self.file),
        }
    }
}

/// What kind of thing a note tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NoteKind {
    /// A file cannot be read, or is not what its name promises.
    Unread,
    /// A name or value is not one, or is beyond a limit.
    Refused,
    /// Another place says otherwise, and wins.
    Overruled,
    /// It is understood, and not carried out.
    NotFollowed,
}

/// Something in the repository that the plan does not do, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    /// What kind of thing this tells.
    pub kind: NoteKind,
    /// Where it is.
    #[serde(flatten)]
    pub place: Place,
    /// What and why: one line, without control characters.
    pub message: String,
}

impl Note {
    /// Messages hold words of parsers and of the repository; neither may move a terminal's cursor.
    pub(super) fn new(kind: NoteKind, place: Place, message: impl fmt::Display) -> Self {
        let message = message.to_string();
        let clean = message.chars().map(|c| if c.is_control() { ' ' } else { c });
        Self { kind, place, message: clean.take(LONGEST).collect() }
    }
}

impl fmt::Display for Note {
    /// `FILE:LINE: MESSAGE`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// A text of the repository's as a message repeats it: quoted, escaped, shortened.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
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
        let note = Note::new(NoteKind::Refused, Place::line("x", 2), format!("{} {text}", shown(&text)));
        assert!(note.message.starts_with("\"a\\u{1b}[2J\\u{202e}\\nb"), "{}", note.message);
        assert!(note.message.contains("b\"… a [2J"), "{}", note.message);
        assert_eq!(note.message.chars().count(), LONGEST);
        assert_eq!((note.place.to_string().as_str(), Place::file("y").to_string().as_str()), ("x:2", "y"));
    }
}
