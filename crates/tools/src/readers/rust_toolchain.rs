//! Reads `rust-toolchain.toml`, and `rust-toolchain`, which has the same format or a single line.

use toml::de::DeTable;

use super::text::{Text, at, strings};
use crate::{
    findings::Findings,
    note::{NoteKind, Place},
};

pub(super) fn read(file: &'static str, bytes: &[u8], found: &mut Findings) {
    let Some(text) = Text::of(file, bytes, found) else { return };
    match old_form(&text) {
        Some((place, channel)) => {
            found.ask(place, "rust", channel);
        }
        None => {
            if let Some(table) = text.toml(found) {
                toolchain(&text, table.get_ref(), found);
            }
        }
    }
}

/// Returns the channel of a single-line file, whose name has no `.toml`, as in rustup.
fn old_form<'a>(text: &Text<'a>) -> Option<(Place, &'a str)> {
    let mut lines = text.lines();
    let (place, line) = lines.next().filter(|_| !text.file.ends_with(".toml"))?;
    (lines.next().is_none() && !line.contains(['[', '='])).then_some((place, line))
}

fn toolchain(text: &Text<'_>, table: &DeTable<'_>, found: &mut Findings) {
    let Some(channel) = at(table, &["toolchain", "channel"]) else {
        found.note(NoteKind::NotFollowed, Place::file(text.file), "the channel is missing");
        return;
    };
    let place = text.place_of(channel);
    let Some(name) = channel.get_ref().as_str() else {
        found.note(NoteKind::Unread, place, "the channel is not a string");
        return;
    };
    let [components, targets] = [("components", "component"), ("targets", "target")].map(|(key, what)| {
        let Some(value) = at(table, &["toolchain", key]) else { return Vec::new() };
        let place = text.place_of(value);
        match strings(value.get_ref()) {
            Some(words) => found.words(place, what, &words),
            None => {
                found.note(NoteKind::Unread, place, format_args!("{key} is not a list of strings"));
                Vec::new()
            }
        }
    });
    if let Some(asked) = found.ask(place, "rust", name) {
        (asked.components, asked.targets) = (components, targets);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_as(file: &'static str, text: &str) -> Findings {
        let mut found = Findings::default();
        read(file, text.as_bytes(), &mut found);
        found
    }

    #[test]
    fn both_forms_are_read() {
        for (file, text, line) in [
            ("rust-toolchain", "nightly-2024-01-31\n", 1),
            ("rust-toolchain", "[toolchain]\nchannel = 'nightly-2024-01-31'\n", 2),
            ("rust-toolchain.toml", "\n[toolchain]\nchannel = \"nightly-2024-01-31\"\n", 3),
        ] {
            let found = read_as(file, text);
            assert_eq!(found.asked_for(), ["rust nightly-2024-01-31"], "{text}");
            assert_eq!(found.asked[0].source, Place::line(file, line));
        }
    }

    #[test]
    fn components_and_targets_are_harmless_words() {
        let found = read_as(
            "rust-toolchain.toml",
            "[toolchain]\nchannel = '1.80'\ncomponents = ['clippy', '--x', 'a b']\n\
             targets = ['wasm32-unknown-unknown', 'thumbv8m.main-none-eabihf']\n",
        );
        let asked = &found.asked[0];
        assert_eq!(asked.components.iter().map(|word| word.as_str()).collect::<Vec<_>>(), ["clippy"]);
        assert_eq!(asked.targets.len(), 2);
        assert_eq!(
            found.messages(),
            [
                "3: \"--x\" is not a component: it cannot begin with '-'",
                "3: \"a b\" is not a component: ' ' at position 2 is not allowed: use letters, digits, ., _, + and -",
            ]
        );
    }

    #[test]
    fn what_is_no_toolchain_is_noted() {
        for (text, note) in [
            ("", "the channel is missing"),
            ("[toolchain]\npath = '/x'\n", "the channel is missing"),
            ("[toolchain]\nchannel = 1\n", "2: the channel is not a string"),
            ("[toolchain]\nchannel = 'stable'\ntargets = 1\n", "3: targets is not a list of strings"),
        ] {
            assert_eq!(read_as("rust-toolchain.toml", text).messages(), [note], "{text}");
        }
    }
}
