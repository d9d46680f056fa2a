//! Reads `rust-toolchain.toml`, and `rust-toolchain`, which has the same format or a single line.

use toml::de::DeTable;

use super::text::{Text, at, strings};
use crate::{
    findings::Findings,
    note::{Location, NoteKind},
};

pub(super) fn read(file: &'static str, bytes: &[u8], findings: &mut Findings) {
    let Some(text) = Text::of(file, bytes, findings) else { return };
    match old_form(&text) {
        Some((location, channel)) => {
            findings.request(location, "rust", channel);
        }
        None => {
            if let Some(table) = text.toml(findings) {
                toolchain(&text, table.get_ref(), findings);
            }
        }
    }
}

/// Returns the channel of a single-line file, whose name has no `.toml`, as in rustup.
fn old_form<'a>(text: &Text<'a>) -> Option<(Location, &'a str)> {
    let mut lines = text.lines();
    let (location, line) = lines.next().filter(|_| !text.file.ends_with(".toml"))?;
    (lines.next().is_none() && !line.contains(['[', '='])).then_some((location, line))
}

fn toolchain(text: &Text<'_>, table: &DeTable<'_>, findings: &mut Findings) {
    let Some(channel) = at(table, &["toolchain", "channel"]) else {
        findings.note(NoteKind::NotFollowed, Location::file(text.file), "the channel is missing");
        return;
    };
    let location = text.location_of(channel);
    let Some(name) = channel.get_ref().as_str() else {
        findings.note(NoteKind::Unread, location, "the channel is not a string");
        return;
    };
    let [components, targets] = [("components", "component"), ("targets", "target")].map(|(key, what)| {
        let Some(value) = at(table, &["toolchain", key]) else { return Vec::new() };
        let location = text.location_of(value);
        match strings(value.get_ref()) {
            Some(words) => findings.words(location, what, &words),
            None => {
                findings.note(NoteKind::Unread, location, format_args!("{key} is not a list of strings"));
                Vec::new()
            }
        }
    });
    if let Some(request) = findings.request(location, "rust", name) {
        (request.components, request.targets) = (components, targets);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_as(file: &'static str, text: &str) -> Findings {
        let mut findings = Findings::default();
        read(file, text.as_bytes(), &mut findings);
        findings
    }

    #[test]
    fn both_file_formats_are_read() {
        for (file, text, line) in [
            ("rust-toolchain", "nightly-2024-01-31\n", 1),
            ("rust-toolchain", "[toolchain]\nchannel = 'nightly-2024-01-31'\n", 2),
            ("rust-toolchain.toml", "\n[toolchain]\nchannel = \"nightly-2024-01-31\"\n", 3),
        ] {
            let findings = read_as(file, text);
            assert_eq!(findings.requested(), ["rust nightly-2024-01-31"], "{text}");
            assert_eq!(findings.requests[0].source, Location::line(file, line));
        }
    }

    #[test]
    fn components_and_targets_are_validated() {
        let findings = read_as(
            "rust-toolchain.toml",
            "[toolchain]\nchannel = '1.80'\ncomponents = ['clippy', '--x', 'a b']\n\
             targets = ['wasm32-unknown-unknown', 'thumbv8m.main-none-eabihf']\n",
        );
        let request = &findings.requests[0];
        assert_eq!(request.components.iter().map(|word| word.as_str()).collect::<Vec<_>>(), ["clippy"]);
        assert_eq!(request.targets.len(), 2);
        assert_eq!(
            findings.messages(),
            [
                "3: \"--x\" is not a component: it cannot begin with '-'",
                "3: \"a b\" is not a component: ' ' at position 2 is not allowed: use letters, digits, ., _, + and -",
            ]
        );
    }

    #[test]
    fn invalid_toolchains_are_noted() {
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
