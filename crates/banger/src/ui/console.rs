//! Bytes from a guest or a log, in the form in which they are printed.

use std::borrow::Cow;

use banger_api::is_hidden;

use super::json;

/// Decodes bytes as they arrive, so that a guest cannot control the terminal that shows them.
#[derive(Debug)]
pub(crate) struct Console {
    form: Form,
    /// The first bytes of an incomplete character.
    incomplete: Vec<u8>,
}

/// The form in which bytes are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Unchanged, for a file or a program.
    Exact,
    /// Text without hidden characters, for a terminal.
    Text,
    /// JSON lines with hidden characters escaped.
    Json,
}

impl Console {
    /// Returns a console for text: without hidden characters on a terminal, unchanged elsewhere.
    pub(crate) fn text(is_terminal: bool) -> Self {
        Self { form: if is_terminal { Form::Text } else { Form::Exact }, incomplete: Vec::new() }
    }

    pub(super) fn json_lines() -> Self {
        Self { form: Form::Json, incomplete: Vec::new() }
    }

    /// Returns `bytes` in the form to print. An incomplete character is part of the next result.
    pub(crate) fn decode<'a>(&mut self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        if self.form == Form::Exact {
            return Cow::Borrowed(bytes);
        }
        self.incomplete.extend_from_slice(bytes);
        let complete = self.incomplete.len() - incomplete_suffix(&self.incomplete);
        let rest = self.incomplete.split_off(complete);
        let text = String::from_utf8_lossy(&self.incomplete);
        let text: String = match self.form {
            Form::Json => json::escape(&text),
            _ => text.chars().filter(|c| !is_hidden(*c) || matches!(c, '\n' | '\t')).collect(),
        };
        self.incomplete = rest;
        Cow::Owned(text.into_bytes())
    }
}

/// Returns how many bytes at the end belong to an incomplete character.
fn incomplete_suffix(bytes: &[u8]) -> usize {
    for (before, byte) in bytes.iter().rev().take(3).enumerate() {
        let length = match byte {
            0x80..=0xBF => continue,
            0xC0..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF7 => 4,
            _ => 1,
        };
        return if length > before + 1 { before + 1 } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(console: &mut Console, bytes: &[u8]) -> String {
        String::from_utf8(console.decode(bytes).into_owned()).unwrap()
    }

    #[test]
    fn split_characters_are_joined_and_hidden_characters_removed() {
        let text = "a\u{1b}[31mb äöü\u{202e} 漢字 🙂\u{9b}\r\nend\n";
        for size in 1..8 {
            let mut console = Console::text(true);
            let shown: String = text.as_bytes().chunks(size).map(|part| decode(&mut console, part)).collect();
            assert_eq!(shown, "a[31mb äöü 漢字 🙂\nend\n", "in pieces of {size}");
        }
    }

    #[test]
    fn json_lines_keep_hidden_characters_as_escapes() {
        let line = "{\"reason\":\"\u{9b}2J\u{202e}🙂\"}\n";
        for size in 1..8 {
            let mut console = Console::json_lines();
            let shown: String = line.as_bytes().chunks(size).map(|part| decode(&mut console, part)).collect();
            assert_eq!(shown, "{\"reason\":\"\\u009b2J\\u202e🙂\"}\n", "in pieces of {size}");
        }
    }

    #[test]
    fn a_file_or_a_program_gets_the_exact_bytes() {
        assert_eq!(&*Console::text(false).decode(b"\x1b[31m\xff"), b"\x1b[31m\xff");
    }

    #[test]
    fn invalid_utf8_is_replaced_without_delay() {
        let mut console = Console::text(true);
        assert_eq!(decode(&mut console, b"\xff\xfe\x80\x80\x80\x80"), "\u{fffd}".repeat(6));
        assert_eq!(decode(&mut console, b"\xe2"), "");
        assert_eq!(decode(&mut console, b"x\n"), "\u{fffd}x\n");
    }
}
