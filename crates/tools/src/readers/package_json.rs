//! Reads `package.json`: the versions of node and of its package manager.

use serde_json::Value;

use super::{json, text::before};
use crate::{
    findings::Findings,
    note::{Location, NoteKind, quoted},
};

/// Package managers accepted in `packageManager`.
const MANAGERS: &[&str] = &["npm", "pnpm", "yarn", "bun"];

pub(super) fn read(file: &'static str, bytes: &[u8], findings: &mut Findings) {
    let Some(object) = json::object(file, bytes, findings) else { return };
    let location = Location::file(file);
    // A pinned version takes precedence over a range.
    for section in ["volta", "engines"] {
        match object.get(section).and_then(|section| section.get("node")) {
            None => {}
            Some(Value::String(version)) => {
                findings.request(location, "node", version);
            }
            Some(_) => {
                findings.note(NoteKind::Unread, location, format_args!("{section}.node is not a string"))
            }
        }
    }
    if let Some(manager) = object.get("packageManager").and_then(Value::as_str) {
        package_manager(location, manager, findings);
    }
}

fn package_manager(location: Location, manager: &str, findings: &mut Findings) {
    match manager.split_once('@') {
        Some((name, version)) if MANAGERS.contains(&name) => {
            // The plus is followed by the archive's digest, which only that manager's own loader can verify.
            findings.request(location, name, before(version, "+"));
        }
        _ => {
            let message = format_args!("packageManager {} is not known", quoted(manager));
            findings.note(NoteKind::NotFollowed, location, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Findings {
        let mut findings = Findings::default();
        read("package.json", text.as_bytes(), &mut findings);
        findings
    }

    #[test]
    fn node_and_the_package_manager_are_read() {
        for (text, requested) in [
            (r#"{"engines": {"node": ">=18 <21", "npm": "9"}}"#, &["node 18"][..]),
            (r#"{"engines": {"node": "^20"}, "volta": {"node": "20.11.1"}}"#, &["node 20.11.1", "node 20"]),
            (
                r#"{"packageManager": "pnpm@9.1.0+sha512.67f5879916a9293e5cf059c23853d571beaf4f753c707f40cb22bed5fb1578c6aad3b6c4107ccb3ba0b35be003eb621a16471ac836c87beb53f9d54bb4612724"}"#,
                &["pnpm 9.1.0"],
            ),
            (r#"{"name": "x", "engines": ["node"], "volta": 1}"#, &[]),
        ] {
            let findings = read_text(text);
            assert_eq!(
                (findings.requested(), findings.messages()),
                (requested.iter().map(|s| (*s).to_owned()).collect(), vec![]),
                "{text}"
            );
        }
    }

    #[test]
    fn invalid_values_are_noted() {
        for (text, note) in [
            (r#"{"engines": {"node": 18}}"#, "engines.node is not a string"),
            (r#"{"packageManager": "evil@1"}"#, "packageManager \"evil@1\" is not known"),
            (r#"{"packageManager": "npm@-g"}"#, "npm: \"-g\" is not a version: it cannot begin with '-'"),
            ("[]", "it is not a JSON object"),
            ("{\n// no\n}", "2: invalid JSON: key must be a string at line 2 column 1"),
        ] {
            assert_eq!(read_text(text).messages(), [note], "{text}");
        }
    }
}
