//! Reads `.tool-versions`.

use super::text::Text;
use crate::{
    findings::Findings,
    note::{NoteKind, Place},
};

pub(super) fn read(file: &'static str, bytes: &[u8], found: &mut Findings) {
    let Some(text) = Text::of(file, bytes, found) else { return };
    for (place, line) in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(version)) = (words.next(), words.next()) else {
            found.note(NoteKind::Unread, place, "the version is missing");
            continue;
        };
        if found.ask(place, name, version).is_some() {
            only_the_first(place, words.count(), found);
        }
    }
}

/// Notes further versions, which asdf would use as fallbacks.
pub(super) fn only_the_first(place: Place, others: usize, found: &mut Findings) {
    if others > 0 {
        found.note(NoteKind::NotFollowed, place, "of several versions, only the first is installed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_versions_are_read_with_their_lines() {
        let mut found = Findings::default();
        let text =
            "# ours\nnodejs 20.11.0\npython 3.12.1 3.11.7 # two\nruby\n\njava temurin-21\r\nx system\n";
        read(".tool-versions", text.as_bytes(), &mut found);
        assert_eq!(found.asked_for(), ["node 20.11.0", "python 3.12.1", "java temurin-21"]);
        assert_eq!(found.asked[0].source.to_string(), ".tool-versions:2");
        assert_eq!(
            found.messages(),
            [
                "3: of several versions, only the first is installed",
                "4: the version is missing",
                "7: x: \"system\" is not a version that can be installed",
            ]
        );
    }
}
