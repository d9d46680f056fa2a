//! Times of writes: beside a log `x.log`, the file `x.times` has a line for each second with a write.
//!
//! Above [`MAX_ROWS`] lines, each pair of neighbours is merged into one. So recent writes are known to the second, and
//! older ones less precisely the older they are.

use std::{
    fs::{self, OpenOptions},
    io::{Read, Write},
    path::{Path, PathBuf},
};

/// Maximum number of lines.
const MAX_ROWS: usize = 512;

/// Maximum number of bytes read from a file. Each line has three numbers.
const MAX_READ: u64 = 64 << 10;

/// The offset of the bytes written from second `first` to second `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    first: i64,
    last: i64,
    offset: u64,
}

/// The rows of one file of a log.
#[derive(Debug)]
pub(super) struct Times {
    path: PathBuf,
    rows: Vec<Row>,
}

impl Times {
    /// Reads the times of the log file `log`.
    pub(super) fn open(log: &Path) -> Self {
        let path = match log.extension() {
            // The older file of the log has the older file of the times.
            Some(extension) if extension == "1" => {
                super::older(&log.with_extension("").with_extension("times"))
            }
            _ => log.with_extension("times"),
        };
        let mut text = String::new();
        if let Ok(file) = fs::File::open(&path) {
            // Errors are ignored: a log without rows is read from its start.
            let _ = file.take(MAX_READ).read_to_string(&mut text);
        }
        Self { path, rows: text.split_inclusive('\n').filter_map(parse).collect() }
    }

    /// Records that the bytes from `offset` on are written at `second`.
    pub(super) fn record(&mut self, second: i64, offset: u64) {
        if self.rows.last().is_some_and(|row| row.last == second) {
            return;
        }
        let row = Row { first: second, last: second, offset };
        if self.rows.len() < MAX_ROWS {
            self.rows.push(row);
            let file = OpenOptions::new().append(true).create(true).open(&self.path);
            // On a full disk, the times are less precise.
            let _ = file.and_then(|mut file| file.write_all(line(&row).as_bytes()));
            return;
        }
        self.rows = self.rows.chunks(2).filter_map(merge).chain([row]).collect();
        let new = self.path.with_extension("partial");
        let text: String = self.rows.iter().map(line).collect();
        let _ = fs::write(&new, text).and_then(|()| fs::rename(&new, &self.path));
    }

    /// Rotates the times with the log's file.
    pub(super) fn rotate(&mut self) {
        let _ = fs::rename(&self.path, super::older(&self.path));
        self.rows.clear();
    }

    /// Clears the times, as the log's file is empty.
    pub(super) fn restart(&mut self) {
        let _ = fs::remove_file(&self.path);
        self.rows.clear();
    }

    /// Returns the offset of what was written from `second` on, `None` if nothing was, or 0 if there are no rows.
    pub(super) fn offset_since(&self, second: i64) -> Option<u64> {
        if self.rows.is_empty() {
            return Some(0);
        }
        self.rows.iter().find(|row| row.last >= second).map(|row| row.offset)
    }
}

fn line(row: &Row) -> String {
    format!("{} {} {}\n", row.first, row.last, row.offset)
}

/// Parses a complete line; returns `None` for one cut off by a full disk or a crash.
fn parse(line: &str) -> Option<Row> {
    let mut words = line.strip_suffix('\n')?.split(' ');
    let row = Row {
        first: words.next()?.parse().ok()?,
        last: words.next()?.parse().ok()?,
        offset: words.next()?.parse().ok()?,
    };
    words.next().is_none().then_some(row)
}

fn merge(pair: &[Row]) -> Option<Row> {
    let (first, last) = (pair.first()?, pair.last()?);
    Some(Row { first: first.first, last: last.last, offset: first.offset })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_found_by_second_also_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a.log");
        let mut times = Times::open(&log);
        assert_eq!(times.offset_since(7), Some(0));
        for (second, offset) in [(10, 0), (10, 5), (11, 9), (20, 30)] {
            times.record(second, offset);
        }
        for times in [times, Times::open(&log)] {
            for (second, offset) in [(0, Some(0)), (10, Some(0)), (11, Some(9)), (12, Some(30)), (21, None)] {
                assert_eq!(times.offset_since(second), offset, "{second}");
            }
        }
    }

    #[test]
    fn rotation_moves_the_times_to_the_older_file() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a.log");
        let mut times = Times::open(&log);
        times.record(10, 3);
        times.rotate();
        times.record(20, 0);
        assert_eq!(Times::open(&super::super::older(&log)).offset_since(5), Some(3));
        assert_eq!(Times::open(&log).offset_since(5), Some(0));
    }

    #[test]
    fn the_number_of_rows_is_limited_and_recent_seconds_stay_exact() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a.log");
        let mut times = Times::open(&log);
        for second in 0..10_000_i64 {
            times.record(second, second.unsigned_abs() * 10);
            assert!(times.rows.len() <= MAX_ROWS);
        }
        for times in [times, Times::open(&log)] {
            assert!(times.rows.len() <= MAX_ROWS);
            for second in 0..10_000_i64 {
                let found = times.offset_since(second).unwrap();
                assert!(found <= second.unsigned_abs() * 10, "{second} is after {found}");
            }
            assert_eq!(times.offset_since(9_990), Some(99_900), "the latest rows are exact to the second");
        }
        assert!(fs::metadata(dir.path().join("a.times")).unwrap().len() < MAX_READ);
    }

    #[test]
    fn truncated_and_malformed_lines_are_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a.log");
        fs::write(log.with_extension("times"), "10 10 0\nnonsense\n11 11 5 6\n12 12 7").unwrap();
        assert_eq!(Times::open(&log).rows, [Row { first: 10, last: 10, offset: 0 }]);
    }
}
