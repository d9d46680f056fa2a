//! Reads `mise.toml`: tools, and plain environment variables.

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    asdf::note_other_versions,
    text::{Text, at},
};
use crate::{
    findings::Findings,
    note::{Location, NoteKind, quoted},
};

pub(super) fn read(file: &'static str, bytes: &[u8], findings: &mut Findings) {
    let Some(text) = Text::of(file, bytes, findings) else { return };
    let Some(table) = text.toml(findings) else { return };
    each(&text, table.get_ref(), "tools", findings, tool);
    each(&text, table.get_ref(), "env", findings, variable);
}

/// Calls `visit` with each entry of the table `section`, in the file's order.
fn each(
    text: &Text<'_>,
    table: &DeTable<'_>,
    section: &str,
    findings: &mut Findings,
    visit: fn(Location, &str, &DeValue<'_>, &mut Findings),
) {
    let Some(section) = at(table, &[section]).and_then(|section| section.get_ref().as_table()) else {
        return;
    };
    let mut entries: Vec<(&Spanned<_>, _)> = section.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    for (name, value) in entries {
        visit(text.location_of(name), name.get_ref().as_ref(), value.get_ref(), findings);
    }
}

fn tool(location: Location, name: &str, value: &DeValue<'_>, findings: &mut Findings) {
    let (first, others) = match value {
        DeValue::Array(versions) => {
            (versions.first().map(Spanned::get_ref), versions.len().saturating_sub(1))
        }
        value => (Some(value), 0),
    };
    let Some(version) = first.and_then(version) else {
        let message = format_args!("{} has no version string", quoted(name));
        findings.note(NoteKind::NotFollowed, location, message);
        return;
    };
    if findings.request(location, name, version).is_none() {
        return;
    }
    note_other_versions(location, others, findings);
    if first.and_then(DeValue::as_table).is_some_and(|table| table.len() > 1) {
        findings.note(
            NoteKind::NotFollowed,
            location,
            format_args!("only the version of {} is used", quoted(name)),
        );
    }
}

fn version<'t>(value: &'t DeValue<'_>) -> Option<&'t str> {
    match value {
        DeValue::Table(table) => at(table, &["version"])?.get_ref().as_str(),
        value => value.as_str(),
    }
}

fn variable(location: Location, name: &str, value: &DeValue<'_>, findings: &mut Findings) {
    let problem = match value.as_str() {
        _ if name == "_" => "`_` in [env] is not supported".to_owned(),
        Some(value) if ["{{", "{%"].iter().any(|mark| value.contains(mark)) => {
            format!("the variable {} is a template", quoted(name))
        }
        Some(value) => return findings.variable(location, name, value),
        None => format!("the variable {} is not a string", quoted(name)),
    };
    findings.note(NoteKind::NotFollowed, location, problem);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Findings {
        let mut findings = Findings::default();
        read("mise.toml", text.as_bytes(), &mut findings);
        findings
    }

    #[test]
    fn all_forms_of_tool_entries_are_read() {
        let findings = read_text(
            "[tools]\nnode = '20'\npython = ['3.12', '3.11']\ngo = { version = 'prefix:1.22' }\nerlang = 'latest'\n\
             [tools.ruby]\nversion = '3.3'\npostinstall = 'evil'\n",
        );
        assert_eq!(findings.requested(), ["node 20", "python 3.12", "go 1.22", "erlang latest", "ruby 3.3"]);
        assert_eq!(findings.requests[3].source, Location::line("mise.toml", 5));
        assert_eq!(
            findings.messages(),
            [
                "3: of several versions, only the first is installed",
                "6: only the version of \"ruby\" is used",
            ]
        );
    }

    #[test]
    fn unsupported_and_invalid_entries_are_noted() {
        let findings = read_text(
            "[tools]\n'npm:x' = '1'\na = 1\nb = []\nc = {os = ['linux']}\nd = 'path:/x'\n[env]\nA = 'a b; $(id)'\nB = 1\n\
             C = '{{env.HOME}}'\n_.file = '.env'\nPATH = '/x'\n",
        );
        assert_eq!(findings.requested(), [""; 0]);
        let variables: Vec<_> =
            findings.variables.iter().map(|v| (v.name.as_str(), v.value.as_str())).collect();
        assert_eq!(variables, [("A", "a b; $(id)")]);
        assert_eq!(
            findings.messages(),
            [
                "2: \"npm:x\" names a backend, which is not supported (':' at position 4 is not allowed: use a-z, \
                 0-9, - and _)",
                "3: \"a\" has no version string",
                "4: \"b\" has no version string",
                "5: \"c\" has no version string",
                "6: d: \"path:/x\" is not a version that can be installed",
                "9: the variable \"B\" is not a string",
                "10: the variable \"C\" is a template",
                "11: `_` in [env] is not supported",
                "12: the variable \"PATH\": it is reserved for the guest",
            ]
        );
    }

    #[test]
    fn a_file_without_tools_and_env_tables_requests_nothing() {
        for text in ["", "tools = 1\nenv = 'x'\n", "[tasks]\na = 'b'\n"] {
            let findings = read_text(text);
            assert_eq!((findings.requested(), findings.messages()), (vec![], vec![]), "{text}");
        }
        assert!(read_text("[tools\n").messages()[0].starts_with("1: invalid TOML: "));
    }
}
