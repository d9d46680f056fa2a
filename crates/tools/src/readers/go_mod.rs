//! Reads `go.mod`: its `toolchain` and `go` lines.

use super::text::{Text, before};
use crate::{findings::Findings, note::Location};

pub(super) fn read(file: &'static str, bytes: &[u8], findings: &mut Findings) {
    let Some(text) = Text::of(file, bytes, findings) else { return };
    // The first request wins, so `toolchain` comes first, wherever it is in the file; `default` requests nothing.
    let toolchain = directive(&text, "toolchain").filter(|(_, version)| *version != "default");
    for (location, version) in [toolchain, directive(&text, "go")].into_iter().flatten() {
        findings.request(location, "go", version);
    }
}

/// Returns the value of the line that begins with `word`.
fn directive<'a>(text: &Text<'a>, word: &str) -> Option<(Location, &'a str)> {
    text.lines().find_map(|(location, line)| {
        let rest = before(line, "//").strip_prefix(word)?;
        let value = rest.strip_prefix([' ', '\t'])?.trim();
        (!value.is_empty() && !value.starts_with('(')).then_some((location, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_toolchain_line_takes_precedence_over_the_go_line() {
        for (text, requested) in [
            ("module m\n\ngo 1.22 // language\n", &["go 1.22"][..]),
            ("go 1.21.0\ntoolchain go1.22.3\n", &["go 1.22.3", "go 1.21.0"]),
            ("go 1.21\ntoolchain default\n", &["go 1.21"]),
            ("module go/x\nrequire (\n\tgopkg.in/x v1\n)\ngodebug x\n", &[]),
            ("go\t1.24rc1\n", &["go 1.24rc1"]),
        ] {
            let mut findings = Findings::default();
            read("go.mod", text.as_bytes(), &mut findings);
            assert_eq!(
                (findings.requested(), findings.messages()),
                (requested.iter().map(|s| (*s).to_owned()).collect(), vec![]),
                "{text}"
            );
        }
    }

    #[test]
    fn requests_and_notes_have_their_line() {
        let mut findings = Findings::default();
        read("go.mod", b"module m\n\ngo 1.22\ntoolchain ;id\n", &mut findings);
        assert_eq!(findings.requests[0].source.to_string(), "go.mod:3");
        assert!(
            findings.messages()[0].starts_with("4: go: \";id\" is not a version"),
            "{:?}",
            findings.messages()
        );
    }
}
