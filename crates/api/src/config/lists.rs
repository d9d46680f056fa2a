//! Lists of tables: `[[file_sync]]`, `[[registry]]`, `[[catalog]]`.

use toml::de::{DeTable, DeValue};

use super::nearest::nearest;

/// Parses each table of the list `value`, called `name`. An error names the entry and its problem.
pub(super) fn entries<T>(
    name: &str,
    value: &DeValue<'_>,
    read: impl Fn(&DeTable<'_>) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let entries = value.as_array().ok_or(format!("write each entry as a table: [[{name}]]"))?;
    let read = |(index, entry): (usize, &toml::Spanned<DeValue<'_>>)| {
        let table = entry.get_ref().as_table().ok_or(format!("write it as [[{name}]]"));
        table.and_then(&read).map_err(|why| format!("entry {}: {why}", index + 1))
    };
    entries.iter().enumerate().map(read).collect()
}

/// Returns an error if `table` has a key that is not in `known`.
pub(super) fn check_keys(table: &DeTable<'_>, known: &[&'static str]) -> Result<(), String> {
    for name in table.keys().map(|name| name.get_ref().as_ref()) {
        if !known.contains(&name) {
            let suggestion = nearest(name, known.iter().copied());
            let suggestion =
                suggestion.map(|suggestion| format!(": did you mean {suggestion}?")).unwrap_or_default();
            return Err(format!("unknown key {name}{suggestion}"));
        }
    }
    Ok(())
}

/// Returns the string called `name` in `table`, if present.
pub(super) fn text(table: &DeTable<'_>, name: &str) -> Result<Option<String>, String> {
    match table.get(name).map(|value| value.get_ref()) {
        None => Ok(None),
        Some(DeValue::String(text)) => Ok(Some(text.to_string())),
        Some(_) => Err(format!("{name} must be a quoted string")),
    }
}
