//! Decodes a file's bytes as text and TOML, with line numbers.

use std::str;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{
    findings::Findings,
    note::{Location, NoteKind},
};

/// A text file.
#[derive(Debug)]
pub(super) struct Text<'a> {
    pub(super) file: &'static str,
    pub(super) text: &'a str,
    /// Start of each line except the first.
    starts: Vec<usize>,
}

impl<'a> Text<'a> {
    /// Decodes `file` as UTF-8. Returns `None` and adds a note if it is not.
    pub(super) fn of(file: &'static str, bytes: &'a [u8], findings: &mut Findings) -> Option<Self> {
        match str::from_utf8(bytes) {
            Ok(text) => {
                let text = text.strip_prefix('\u{feff}').unwrap_or(text);
                let starts = text.match_indices('\n').map(|(at, _)| at + 1).collect();
                Some(Self { file, text, starts })
            }
            Err(error) => {
                let before = bytes.iter().take(error.valid_up_to());
                let line = before.filter(|byte| **byte == b'\n').count() + 1;
                findings.note(NoteKind::Unread, Location::line(file, line), "it is not UTF-8");
                None
            }
        }
    }

    /// Returns the trimmed lines that are not empty, without comments (`#`), and their places.
    pub(super) fn lines(&self) -> impl Iterator<Item = (Location, &'a str)> {
        let file = self.file;
        let lines = self.text.lines().zip(1..);
        let lines = lines.map(move |(line, number)| (Location::line(file, number), before(line, "#").trim()));
        lines.filter(|(_, line)| !line.is_empty())
    }

    /// Parses the file as TOML. Returns `None` and adds a note if it is not.
    pub(super) fn toml(&self, findings: &mut Findings) -> Option<Spanned<DeTable<'a>>> {
        match DeTable::parse(self.text) {
            Ok(table) => Some(table),
            Err(error) => {
                let location = match error.span() {
                    Some(span) => self.location(span.start),
                    None => Location::file(self.file),
                };
                findings.note(NoteKind::Unread, location, format_args!("invalid TOML: {}", error.message()));
                None
            }
        }
    }

    /// Returns the place of the byte at `at`.
    pub(super) fn location(&self, at: usize) -> Location {
        Location::line(self.file, self.starts.partition_point(|start| *start <= at) + 1)
    }

    /// Returns the place of a TOML value.
    pub(super) fn location_of<T>(&self, value: &Spanned<T>) -> Location {
        self.location(value.span().start)
    }
}

/// Returns the text before `mark`, or all of it.
pub(super) fn before<'a>(line: &'a str, mark: &str) -> &'a str {
    line.split_once(mark).map_or(line, |(before, _)| before)
}

/// Returns the value at `keys` in nested tables.
pub(super) fn at<'t, 'a>(table: &'t DeTable<'a>, keys: &[&str]) -> Option<&'t Spanned<DeValue<'a>>> {
    let (last, parents) = keys.split_last()?;
    let table = parents.iter().try_fold(table, |table, key| table.get(*key)?.get_ref().as_table())?;
    table.get(*last)
}

/// Returns the strings of a string or an array of strings, or `None` for anything else.
pub(super) fn strings<'t>(value: &'t DeValue<'_>) -> Option<Vec<&'t str>> {
    match value {
        DeValue::String(text) => Some(vec![text.as_ref()]),
        DeValue::Array(values) => values.iter().map(|value| value.get_ref().as_str()).collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_numbers_and_no_comments() {
        let mut findings = Findings::default();
        let text = Text::of("f", "\u{feff}a # b\r\n\n#c\n  d\n".as_bytes(), &mut findings).unwrap();
        let lines: Vec<_> = text.lines().map(|(location, line)| (location.line.unwrap(), line)).collect();
        assert_eq!(lines, [(1, "a"), (4, "d")]);
        assert_eq!([0, 6, 7, 8].map(|at| text.location(at).line.unwrap()), [1, 1, 2, 3]);
    }

    #[test]
    fn invalid_utf8_and_invalid_toml_are_noted_with_their_lines() {
        let mut findings = Findings::default();
        assert!(Text::of("f", b"a\n\xff", &mut findings).is_none());
        let text = Text::of("f", b"a = 1\n\nb = \n", &mut findings).unwrap();
        assert!(text.toml(&mut findings).is_none());
        let notes: Vec<_> = findings.notes().iter().map(|note| (note.kind, note.location.line)).collect();
        assert_eq!(notes, [(NoteKind::Unread, Some(2)), (NoteKind::Unread, Some(3))]);
    }
}
