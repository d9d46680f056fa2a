//! A table that is redrawn in place on a terminal.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use unicode_width::UnicodeWidthChar;

use super::table::Table;

/// State of the redrawn table.
#[derive(Debug, Default)]
pub(crate) struct LiveTable {
    /// Number of lines on the screen.
    drawn: usize,
}

impl LiveTable {
    pub(crate) fn draw(&mut self, table: &Table) -> io::Result<()> {
        // A terminal that reports no size is assumed to have the usual one.
        let (rows, cols) = match rustix::termios::tcgetwinsize(rustix::stdio::stdout()) {
            Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row.into(), size.ws_col.into()),
            _ => (24, 80),
        };
        let mut stdout = io::stdout();
        stdout.write_all(self.frame(&table.to_string(), rows, cols).as_bytes())?;
        stdout.flush()
    }

    /// Returns the bytes that draw `table` over the previous one. Lines must not wrap, and the first must stay on
    /// screen.
    fn frame(&mut self, table: &str, rows: usize, cols: usize) -> String {
        let mut frame = String::new();
        if self.drawn > 0 {
            // Writing to a string cannot fail.
            let _ = write!(frame, "\x1b[{}A", self.drawn);
        }
        self.drawn = 0;
        for line in table.lines().take(rows.saturating_sub(1)) {
            frame.push_str(fitting(line, cols));
            frame.push_str("\x1b[K\n");
            self.drawn += 1;
        }
        frame.push_str("\x1b[J");
        frame
    }
}

/// Returns the beginning of `line` that fits in `cols` columns.
fn fitting(line: &str, cols: usize) -> &str {
    let mut width = 0;
    let end = line.char_indices().find(|(_, c)| {
        width += c.width().unwrap_or(0);
        width > cols
    });
    end.map_or(line, |(end, _)| line.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_replaces_the_previous_one_and_fits_the_terminal() {
        let mut live = LiveTable::default();
        assert_eq!(live.frame("A B\n1 2\n", 10, 80), "A B\x1b[K\n1 2\x1b[K\n\x1b[J");
        assert_eq!(live.frame("A B\n1 2\n3 4\n", 3, 2), "\x1b[2AA \x1b[K\n1 \x1b[K\n\x1b[J");
        assert_eq!(live.frame("", 3, 2), "\x1b[2A\x1b[J");
        assert_eq!(live.frame("A\n", 3, 2), "A\x1b[K\n\x1b[J");
    }

    #[test]
    fn wide_and_combining_characters_count_as_the_columns_that_they_fill() {
        assert_eq!(fitting("漢字", 3), "漢");
        assert_eq!(fitting("a\u{301}\u{301}bc", 2), "a\u{301}\u{301}b");
    }
}
