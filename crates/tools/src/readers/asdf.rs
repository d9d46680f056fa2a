//! Reads `.tool-versions`.

use super::text::Text;
use crate::{
    findings::Findings,
    note::{Location, NoteKind},
};

pub(super) fn read(file: &'static str, bytes: &[u8], findings: &mut Findings) {
    let Some(text) = Text::of(file, bytes, findings) else { return };
    for (location, line) in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(version)) = (words.next(), words.next()) else {
            findings.note(NoteKind::Unread, location, "the version is missing");
            continue;
        };
        if findings.request(location, name, version).is_some() {
            note_other_versions(location, words.count(), findings);
        }
    }
}

/// Notes further versions, which asdf would use as fallbacks.
pub(super) fn note_other_versions(location: Location, others: usize, findings: &mut Findings) {
    if others > 0 {
        findings.note(NoteKind::NotFollowed, location, "of several versions, only the first is installed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_versions_are_read_with_their_lines() {
        let mut findings = Findings::default();
        let text =
            "# ours\nnodejs 20.11.0\npython 3.12.1 3.11.7 # two\nruby\n\njava temurin-21\r\nx system\n";
        read(".tool-versions", text.as_bytes(), &mut findings);
        assert_eq!(findings.requested(), ["node 20.11.0", "python 3.12.1", "java temurin-21"]);
        assert_eq!(findings.requests[0].source.to_string(), ".tool-versions:2");
        assert_eq!(
            findings.messages(),
            [
                "3: of several versions, only the first is installed",
                "4: the version is missing",
                "7: x: \"system\" is not a version that can be installed",
            ]
        );
    }
}
