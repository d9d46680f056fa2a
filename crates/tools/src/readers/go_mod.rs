//! Reads `go.mod`: its `toolchain` and `go` lines.

use super::text::{Text, before};
use crate::{findings::Findings, note::Place};

pub(super) fn read(file: &'static str, bytes: &[u8], found: &mut Findings) {
    let Some(text) = Text::of(file, bytes, found) else { return };
    // The first request wins, so `toolchain` comes first, wherever it is in the file; `default` requests nothing.
    let toolchain = directive(&text, "toolchain").filter(|(_, version)| *version != "default");
    for (place, version) in [toolchain, directive(&text, "go")].into_iter().flatten() {
        found.ask(place, "go", version);
    }
}

/// Returns the value of the line that begins with `word`.
fn directive<'a>(text: &Text<'a>, word: &str) -> Option<(Place, &'a str)> {
    text.lines().find_map(|(place, line)| {
        let rest = before(line, "//").strip_prefix(word)?;
        let value = rest.strip_prefix([' ', '\t'])?.trim();
        (!value.is_empty() && !value.starts_with('(')).then_some((place, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_toolchain_wins_over_the_language() {
        for (text, asked) in [
            ("module m\n\ngo 1.22 // language\n", &["go 1.22"][..]),
            ("go 1.21.0\ntoolchain go1.22.3\n", &["go 1.22.3", "go 1.21.0"]),
            ("go 1.21\ntoolchain default\n", &["go 1.21"]),
            ("module go/x\nrequire (\n\tgopkg.in/x v1\n)\ngodebug x\n", &[]),
            ("go\t1.24rc1\n", &["go 1.24rc1"]),
        ] {
            let mut found = Findings::default();
            read("go.mod", text.as_bytes(), &mut found);
            assert_eq!(
                (found.asked_for(), found.messages()),
                (asked.iter().map(|s| (*s).to_owned()).collect(), vec![]),
                "{text}"
            );
        }
    }

    #[test]
    fn the_line_is_known() {
        let mut found = Findings::default();
        read("go.mod", b"module m\n\ngo 1.22\ntoolchain ;id\n", &mut found);
        assert_eq!(found.asked[0].source.to_string(), "go.mod:3");
        assert!(found.messages()[0].starts_with("4: go: \";id\" is not a version"), "{:?}", found.messages());
    }
}
