//! Reads files with the version of one tool, such as `.nvmrc` and `.python-version`.

use super::{asdf::only_the_first, text::Text};
use crate::{
    findings::Findings,
    note::{NoteKind, Place},
};

pub(super) fn read(tool: &str, file: &'static str, bytes: &[u8], found: &mut Findings) {
    let Some(text) = Text::of(file, bytes, found) else { return };
    let mut lines = text.lines();
    let Some((place, version)) = lines.next() else {
        found.note(NoteKind::Unread, Place::file(file), "it is empty");
        return;
    };
    if found.ask(place, tool, version).is_some() {
        only_the_first(place, lines.count(), found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_version_is_read() {
        for (tool, text, asked) in [
            ("node", "v20.1.0\n", "node 20.1.0"),
            ("node", "\n# why\nlts/iron # LTS\n", "node lts-iron"),
            ("node", "20.x", "node 20"),
            ("python", "3.12\r\n", "python 3.12"),
            ("ruby", "ruby-3.2.2\n", "ruby 3.2.2"),
            ("java", "1.8\n", "java 8"),
        ] {
            let mut found = Findings::default();
            read(tool, "f", text.as_bytes(), &mut found);
            assert_eq!((found.asked_for(), found.messages()), (vec![asked.to_owned()], vec![]), "{text}");
        }
    }

    #[test]
    fn other_versions_and_none_are_noted() {
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
            let mut found = Findings::default();
            read("python", "f", text.as_bytes(), &mut found);
            assert_eq!(found.messages(), [note], "{text}");
        }
    }
}
