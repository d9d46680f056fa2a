//! Reads `mise.toml`: tools, and plain environment variables.

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    asdf::only_the_first,
    text::{Text, at},
};
use crate::{
    findings::Findings,
    note::{NoteKind, Place, shown},
};

pub(super) fn read(file: &'static str, bytes: &[u8], found: &mut Findings) {
    let Some(text) = Text::of(file, bytes, found) else { return };
    let Some(table) = text.toml(found) else { return };
    each(&text, table.get_ref(), "tools", found, tool);
    each(&text, table.get_ref(), "env", found, variable);
}

/// Calls `take` with each entry of the table `section`, in the file's order.
fn each(
    text: &Text<'_>,
    table: &DeTable<'_>,
    section: &str,
    found: &mut Findings,
    take: fn(Place, &str, &DeValue<'_>, &mut Findings),
) {
    let Some(section) = at(table, &[section]).and_then(|section| section.get_ref().as_table()) else {
        return;
    };
    let mut entries: Vec<(&Spanned<_>, _)> = section.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    for (name, value) in entries {
        take(text.place_of(name), name.get_ref().as_ref(), value.get_ref(), found);
    }
}

fn tool(place: Place, name: &str, value: &DeValue<'_>, found: &mut Findings) {
    let (first, others) = match value {
        DeValue::Array(versions) => {
            (versions.first().map(Spanned::get_ref), versions.len().saturating_sub(1))
        }
        value => (Some(value), 0),
    };
    let Some(version) = first.and_then(version) else {
        let message = format_args!("{} has no version string", shown(name));
        found.note(NoteKind::NotFollowed, place, message);
        return;
    };
    if found.ask(place, name, version).is_none() {
        return;
    }
    only_the_first(place, others, found);
    if first.and_then(DeValue::as_table).is_some_and(|table| table.len() > 1) {
        found.note(NoteKind::NotFollowed, place, format_args!("only the version of {} is used", shown(name)));
    }
}

fn version<'t>(value: &'t DeValue<'_>) -> Option<&'t str> {
    match value {
        DeValue::Table(table) => at(table, &["version"])?.get_ref().as_str(),
        value => value.as_str(),
    }
}

fn variable(place: Place, name: &str, value: &DeValue<'_>, found: &mut Findings) {
    let why = match value.as_str() {
        _ if name == "_" => "`_` in [env] is not supported".to_owned(),
        Some(value) if ["{{", "{%"].iter().any(|mark| value.contains(mark)) => {
            format!("the variable {} is a template", shown(name))
        }
        Some(value) => return found.variable(place, name, value),
        None => format!("the variable {} is not a string", shown(name)),
    };
    found.note(NoteKind::NotFollowed, place, why);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Findings {
        let mut found = Findings::default();
        read("mise.toml", text.as_bytes(), &mut found);
        found
    }

    #[test]
    fn tools_in_all_their_forms() {
        let found = read_text(
            "[tools]\nnode = '20'\npython = ['3.12', '3.11']\ngo = { version = 'prefix:1.22' }\nerlang = 'latest'\n\
             [tools.ruby]\nversion = '3.3'\npostinstall = 'evil'\n",
        );
        assert_eq!(found.asked_for(), ["node 20", "python 3.12", "go 1.22", "erlang latest", "ruby 3.3"]);
        assert_eq!(found.asked[3].source, Place::line("mise.toml", 5));
        assert_eq!(
            found.messages(),
            [
                "3: of several versions, only the first is installed",
                "6: only the version of \"ruby\" is used",
            ]
        );
    }

    #[test]
    fn what_is_not_used_is_noted() {
        let found = read_text(
            "[tools]\n'npm:x' = '1'\na = 1\nb = []\nc = {os = ['linux']}\nd = 'path:/x'\n[env]\nA = 'a b; $(id)'\nB = 1\n\
             C = '{{env.HOME}}'\n_.file = '.env'\nPATH = '/x'\n",
        );
        assert_eq!(found.asked_for(), [""; 0]);
        let variables: Vec<_> = found.variables.iter().map(|v| (v.name.as_str(), v.value.as_str())).collect();
        assert_eq!(variables, [("A", "a b; $(id)")]);
        assert_eq!(
            found.messages(),
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
    fn a_file_without_its_tables_asks_for_nothing() {
        for text in ["", "tools = 1\nenv = 'x'\n", "[tasks]\na = 'b'\n"] {
            let found = read_text(text);
            assert_eq!((found.asked_for(), found.messages()), (vec![], vec![]), "{text}");
        }
        assert!(read_text("[tools\n").messages()[0].starts_with("1: invalid TOML: "));
    }
}
