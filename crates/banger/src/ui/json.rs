//! JSON that a terminal can show: hidden characters are escaped, which loses nothing.

use std::{fmt::Write as _, io};

use banger_api::is_hidden;
use serde::Serialize;

/// Returns `value` as indented JSON.
pub(super) fn pretty(value: &impl Serialize) -> io::Result<String> {
    serde_json::to_string_pretty(value).map(|json| escape(&json)).map_err(io::Error::other)
}

/// Returns `value` as one line of JSON; `None` if it has a path that is not UTF-8.
pub(super) fn line(value: &impl Serialize) -> Option<String> {
    serde_json::to_string(value).ok().map(|json| escape(&json))
}

/// Returns JSON text with `\u` escapes in place of hidden characters, which are only in its strings; line breaks,
/// which are only between them, stay.
pub(super) fn escape(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        if is_hidden(c) && c != '\n' {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a string cannot fail.
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            escaped.push(c);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Any text, or text of hidden characters.
    fn text() -> impl Strategy<Value = String> {
        let ranges = ['\0'..='\u{a0}', '\u{200b}'..='\u{206f}', '\u{e0000}'..='\u{e01ff}'];
        prop_oneof![
            any::<String>(),
            prop::collection::vec(prop::char::ranges(ranges.to_vec().into()), 0..40)
                .prop_map(String::from_iter)
        ]
    }

    proptest! {
        #[test]
        fn json_parses_to_exactly_the_value_and_has_no_hidden_character(
            value in prop::collection::btree_map(text(), prop::collection::vec(text(), 0..4), 0..4)
        ) {
            for json in [pretty(&value).unwrap(), line(&value).unwrap()] {
                prop_assert!(!json.contains(|c| is_hidden(c) && c != '\n'), "{json:?}");
                let parsed: BTreeMap<String, Vec<String>> = serde_json::from_str(&json).unwrap();
                prop_assert_eq!(&parsed, &value);
            }
            prop_assert!(!line(&value).unwrap().contains('\n'));
        }
    }

    #[test]
    fn characters_beyond_16_bits_are_escaped_as_surrogate_pairs() {
        assert_eq!(
            line(&"a\u{7f}\u{9b}\u{202e}\u{e0041}🙂\n\t\x1b").unwrap(),
            r#""a\u007f\u009b\u202e\udb40\udc41🙂\n\t\u001b""#
        );
    }
}
