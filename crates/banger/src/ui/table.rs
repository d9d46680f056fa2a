//! Tables for people: aligned, no borders.

use std::fmt;

use banger_api::GuestText;
use unicode_width::UnicodeWidthStr;

/// Maximum width of a column. A wider cell does not widen the other rows: a guest could make a table of any size.
pub(super) const MAX_WIDTH: usize = 200;

/// Output format of a list.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Format {
    /// Print a table or JSON
    #[arg(short, long, value_enum, default_value = "table", value_name = "FORMAT")]
    pub(crate) output: Output,
    /// Print ids only
    #[arg(short, long, conflicts_with = "output")]
    pub(crate) quiet: bool,
}

impl Format {
    /// Returns whether the output is a table for people.
    pub(crate) fn is_table(&self) -> bool {
        self.output == Output::Table && !self.quiet
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// Human-readable table
    Table,
    /// JSON for programs
    Json,
}

/// Returns whether the selected command prints JSON.
pub(crate) fn is_json(matches: &clap::ArgMatches) -> bool {
    match matches.subcommand() {
        Some((_, inner)) => is_json(inner),
        // `vm workspace export` has an option `--output` for its file, and `list` for the format.
        None => ["output", "list"].iter().any(|name| {
            let format = matches.try_get_one::<Output>(name);
            format.is_ok_and(|format| format == Some(&Output::Json))
        }),
    }
}

/// Rows below a header.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<const N: usize>(heading: [&str; N]) -> Self {
        Self { rows: vec![heading.map(str::to_owned).to_vec()] }
    }

    /// Returns a table of two columns, names and values, without a header.
    pub(crate) fn from_fields<const N: usize>(fields: [(&str, String); N]) -> Self {
        let mut table = Self { rows: Vec::new() };
        fields.into_iter().for_each(|(name, value)| table.row([format!("{name}:"), value]));
        table
    }

    /// Returns whether the table has only its header.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.len() < 2
    }

    /// Adds a row. Each cell is shown as a [`GuestText`].
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| GuestText::new(&cell).to_string()).to_vec());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width =
            |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.width()).max();
        let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0).min(MAX_WIDTH)).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.width()) + 3));
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Returns `seconds` as one rounded unit.
pub(super) fn ago(seconds: i64) -> String {
    let phrase = |count: i64, unit: &str| format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" });
    match seconds {
        ..5 => "just now".to_owned(),
        5..60 => phrase(seconds, "second"),
        60..3600 => phrase(seconds / 60, "minute"),
        3600..86400 => phrase(seconds / 3600, "hour"),
        _ => phrase(seconds / 86400, "day"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["NAME", "STATE"]);
        table.row(["böx".to_owned(), "running".to_owned()]);
        table.row(["a-longer-name".to_owned(), "\x1b[31mred\n".to_owned()]);
        insta::assert_snapshot!(table, @r"
        NAME            STATE
        böx             running
        a-longer-name   ^[[31mred
        ");
    }

    #[test]
    fn a_long_cell_does_not_widen_the_other_rows() {
        let mut table = Table::new(["NAME", "STATE"]);
        table.row(["x".repeat(1 << 20), "running".to_owned()]);
        for _ in 0..1000 {
            table.row(["box".to_owned(), "running".to_owned()]);
        }
        let text = table.to_string();
        assert!(text.len() < 1000 * (MAX_WIDTH + 20) + GuestText::MAX, "{} bytes", text.len());
        assert!(text.lines().nth(1).unwrap().ends_with("x[…]   running"));
    }

    #[test]
    fn ages_are_shown_in_the_largest_unit() {
        for (seconds, text) in [
            (-3, "just now"),
            (59, "59 seconds ago"),
            (60, "1 minute ago"),
            (7300, "2 hours ago"),
            (200_000, "2 days ago"),
        ] {
            assert_eq!(ago(seconds), text);
        }
    }
}
