//! Parses JSON, and JSON with comments and trailing commas.

use serde_json::Value;

use crate::{
    findings::Findings,
    note::{Location, NoteKind, quoted},
};

/// Parses a JSON file with an object. Anything else is noted.
pub(super) fn object(
    file: &'static str,
    bytes: &[u8],
    findings: &mut Findings,
) -> Option<serde_json::Map<String, Value>> {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => Some(object),
        Ok(_) => {
            findings.note(NoteKind::Unread, Location::file(file), "it is not a JSON object");
            None
        }
        Err(error) => {
            let location = Location::line(file, error.line());
            findings.note(NoteKind::Unread, location, format_args!("invalid JSON: {error}"));
            None
        }
    }
}

/// Formats a value for a message.
pub(super) fn brief(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        value => value.to_string(),
    }
}

/// Replaces comments, and commas before a closing bracket, by spaces. Everything else keeps its position, so that
/// errors name the right line.
pub(super) fn without_comments(bytes: &[u8]) -> Vec<u8> {
    let mut plain = bytes.to_vec();
    let (mut at, mut comma) = (0, None);
    while let Some(byte) = bytes.get(at).copied() {
        let length = match (byte, bytes.get(at + 1)) {
            (b'/', Some(b'/' | b'*')) => {
                let length = comment(bytes.get(at..).unwrap_or_default());
                blank(&mut plain, at, length);
                length
            }
            (b'"', _) => string(bytes.get(at..).unwrap_or_default()),
            _ => 1,
        };
        match byte {
            b'/' | b' ' | b'\t' | b'\r' | b'\n' => {}
            b',' => comma = Some(at),
            b'}' | b']' => {
                comma.take().into_iter().for_each(|comma| blank(&mut plain, comma, 1));
            }
            _ => comma = None,
        }
        at += length;
    }
    plain
}

/// Returns the length of the comment that `bytes` begins with, without the end of its line.
fn comment(bytes: &[u8]) -> usize {
    let end = if bytes.get(1) == Some(&b'/') {
        bytes.iter().position(|byte| *byte == b'\n')
    } else {
        // Start at the third byte: `/*/` is not a complete comment.
        bytes.get(2..).and_then(|inner| inner.windows(2).position(|pair| pair == b"*/")).map(|at| at + 4)
    };
    end.unwrap_or(bytes.len())
}

/// Returns the length of the string that `bytes` begins with, quotes included.
fn string(bytes: &[u8]) -> usize {
    let mut escaped = false;
    let end = bytes.iter().skip(1).position(|byte| {
        let ends = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    });
    end.map_or(bytes.len(), |at| at + 2)
}

fn blank(bytes: &mut [u8], at: usize, length: usize) {
    let range = bytes.iter_mut().skip(at).take(length);
    range.filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain(text: &str) -> String {
        String::from_utf8(without_comments(text.as_bytes())).unwrap()
    }

    #[test]
    fn comments_and_trailing_commas_become_spaces() {
        for (text, expected) in [
            ("{} // end", "{}       "),
            ("// a\n{}", "    \n{}"),
            ("[1, /* , */ 2]", "[1,         2]"),
            ("/*/ \n */[]", "    \n   []"),
            ("[1,]", "[1 ]"),
            ("[1 , // a\n ]", "[1       \n ]"),
            ("{\"a\": [1,2,],}", "{\"a\": [1,2 ] }"),
            ("[1,,]", "[1, ]"),
            ("[1,/**/2]", "[1,    2]"),
            (r#"["//", "/*", ",]", "\"//", "\\"]"#, r#"["//", "/*", ",]", "\"//", "\\"]"#),
            ("[\"a\",\"b\"]", "[\"a\",\"b\"]"),
            ("1 / 2", "1 / 2"),
            ("/* no end", "         "),
            ("\"no end // ,]", "\"no end // ,]"),
        ] {
            assert_eq!(plain(text), expected, "{text}");
        }
    }

    #[test]
    fn json_errors_are_noted_with_their_line() {
        let mut findings = Findings::default();
        assert!(object("f", &without_comments(b"{ // a\n /*\n*/ x }"), &mut findings).is_none());
        assert!(object("f", b"[]", &mut findings).is_none());
        let lines: Vec<_> = findings.notes().iter().map(|note| note.location.line).collect();
        assert_eq!(lines, [Some(3), None]);
        assert!(object("f", "\u{feff}{}".as_bytes(), &mut findings).is_some());
    }

    proptest! {
        #[test]
        fn removing_comments_keeps_line_breaks_and_length(text in "([\"/*,\\[\\]{}\\\\\n a]|//|/\\*|\\*/){0,40}") {
            let plain = without_comments(text.as_bytes());
            prop_assert_eq!(plain.len(), text.len());
            let ends = |bytes: &[u8]| bytes.iter().map(|byte| *byte == b'\n').collect::<Vec<_>>();
            prop_assert_eq!(ends(&plain), ends(text.as_bytes()));
        }

        #[test]
        fn json_without_comments_is_unchanged(texts in prop::collection::vec("[\"/*,\\]}\\\\a]{0,8}", 0..6)) {
            let json = serde_json::to_vec(&texts).unwrap();
            prop_assert_eq!(without_comments(&json), json);
        }
    }
}
