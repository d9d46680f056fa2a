//! Reads files with the version of one tool, such as `.nvmrc` and `.python-version`.

use super::{asdf::note_other_versions, text::Text};
use crate::{
    findings::Findings,
    note::{Location, NoteKind},
};

pub(super) fn read(tool: &str, file: &'static str, bytes: &[u8], findings: &mut Findings) {
    let Some(text) = Text::of(file, bytes, findings) else { return };
    let mut lines = text.lines();
    let Some((location, version)) = lines.next() else {
        findings.note(NoteKind::Unread, Location::file(file), "it is empty");
        return;
    };
    if findings.request(location, tool, version).is_some() {
        note_other_versions(location, lines.count(), findings);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_and_normalized() {
        for (tool, text, requested) in [
            ("node", "v20.1.0\n", "node 20.1.0"),
            ("node", "\n# why\nlts/iron # LTS\n", "node lts-iron"),
            ("node", "20.x", "node 20"),
            ("python", "3.12\r\n", "python 3.12"),
            ("ruby", "ruby-3.2.2\n", "ruby 3.2.2"),
            ("java", "1.8\n", "java 8"),
        ] {
            let mut findings = Findings::default();
            read(tool, "f", text.as_bytes(), &mut findings);
            assert_eq!(
                (findings.requested(), findings.messages()),
                (vec![requested.to_owned()], vec![]),
                "{text}"
            );
        }
    }

    #[test]
    fn extra_missing_and_invalid_versions_are_noted() {
        for (text, note) in [
            ("3.12\n3.11\n", "1: of several versions, only the first is installed"),
            ("# nothing\n", "it is empty"),
            ("system\n", "1: python: \"system\" is not a version that can be installed"),
            (
                "$(id)\n",
                "1: python: \"$(id)\" is not a version: '$' at position 1 is not allowed: use letters, digits, ., _, \
                 + and -",
            ),
        ] {
            let mut findings = Findings::default();
            read("python", "f", text.as_bytes(), &mut findings);
            assert_eq!(findings.messages(), [note], "{text}");
        }
    }
}
