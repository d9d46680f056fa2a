//! Reads `pyproject.toml`: the Python versions that it supports.

use super::text::{Text, at};
use crate::{findings::Findings, note::NoteKind};

/// The keys of the version, in order of precedence.
const KEY_PATHS: &[&[&str]] = &[
    &["project", "requires-python"],
    &["tool", "poetry", "dependencies", "python"],
    &["tool", "poetry", "dependencies", "python", "version"],
];

pub(super) fn read(file: &'static str, bytes: &[u8], findings: &mut Findings) {
    let Some(text) = Text::of(file, bytes, findings) else { return };
    let Some(table) = text.toml(findings) else { return };
    for keys in KEY_PATHS {
        let Some(value) = at(table.get_ref(), keys) else { continue };
        let location = text.location_of(value);
        if let Some(range) = value.get_ref().as_str() {
            findings.request(location, "python", range);
        } else if !value.get_ref().is_table() {
            findings.note(NoteKind::Unread, location, format_args!("{} is not a string", keys.join(".")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn project_and_poetry_versions_are_read() {
        for (text, requested) in [
            ("[project]\nrequires-python = '>=3.11,<4'\n", &["python 3"][..]),
            ("[tool.poetry.dependencies]\npython = '^3.11'\n", &["python 3"]),
            ("[tool.poetry.dependencies]\npython = {version = '~3.10'}\n", &["python 3.10"]),
            (
                "[project]\nrequires-python = '>=3.9,<3.13'\n[tool.poetry.dependencies]\npython = '3.12'\n",
                &["python 3.9", "python 3.12"],
            ),
            ("[project]\nname = 'x'\n[tool]\npoetry = 1\n", &[]),
        ] {
            let mut findings = Findings::default();
            read("pyproject.toml", text.as_bytes(), &mut findings);
            assert_eq!(
                (findings.requested(), findings.messages()),
                (requested.iter().map(|s| (*s).to_owned()).collect(), vec![]),
                "{text}"
            );
        }
    }

    #[test]
    fn invalid_ranges_are_noted() {
        let mut findings = Findings::default();
        read("pyproject.toml", b"[project]\nrequires-python = 3.11\n", &mut findings);
        read("pyproject.toml", b"[project]\nrequires-python = '>=a'\n", &mut findings);
        assert_eq!(
            findings.messages(),
            [
                "2: project.requires-python is not a string",
                "2: python: \">=a\" is not a supported version range"
            ]
        );
    }
}
