//! Bytes that a terminal can show.

use std::fmt::Write as _;

use banger_api::push_visible;

/// Returns `bytes` with every hidden character visible, as `less` shows it, except line breaks and tabs. Invalid UTF-8
/// is shown as hexadecimal bytes.
pub(super) fn visible_bytes(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' | '\t' => text.push(c),
                c => push_visible(&mut text, c),
            }
        }
        for byte in chunk.invalid() {
            // Writing to a string cannot fail.
            let _ = write!(text, "<{byte:02X}>");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_is_shown_with_its_control_characters() {
        let patch = b"+a\x1b]0;title\x07\r\n+\tb\xff\xc3\n+\xe2\x80\xae// \xc2\x9b2J\n";
        assert_eq!(visible_bytes(patch), "+a^[]0;title^G^M\n+\tb<FF><C3>\n+<U+202E>// <U+009B>2J\n");
    }
}
