//! The last lines of the guest's console, for error messages.

use std::{io, path::Path};

use banger_api::is_hidden;

use crate::logs::{CONSOLE_MAX, Reader};

/// Maximum number of console lines in an error.
pub(super) const CONSOLE_LINES: usize = 12;

/// Maximum number of characters of a console line in an error.
const LINE_MAX: usize = 400;

/// Number of lines at the end of the log that are searched for a kernel panic.
const PANIC_SEARCH_LINES: usize = 100;

fn read_all(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut reader = Reader::open(path, None)?;
    let mut buffer = vec![0; 64 << 10];
    // Bounded, because a guest may write without end.
    while (text.len() as u64) < 2 * CONSOLE_MAX {
        let count = reader.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        text.extend_from_slice(buffer.get(..count).unwrap_or_default());
    }
    Ok(text)
}

/// Returns the last `count` non-empty lines of the log at `path`, without hidden characters. After a kernel panic,
/// returns the lines from its reason on, because the stack trace would crowd the reason out.
pub(super) fn last_lines(path: &Path, count: usize) -> Vec<String> {
    let text = read_all(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let clean = |line: &str| line.chars().filter(|c| !is_hidden(*c)).take(LINE_MAX).collect::<String>();
    let mut lines: Vec<_> = text
        .lines()
        .rev()
        .map(clean)
        .filter(|line| !line.trim().is_empty())
        .take(PANIC_SEARCH_LINES)
        .collect();
    lines.reverse();
    let panic = lines.iter().position(|line| line.contains("Kernel panic"));
    let from = panic.unwrap_or_else(|| lines.len().saturating_sub(count));
    lines.drain(..from);
    lines.truncate(count);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(text: &[u8], count: usize) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        std::fs::write(&path, text).unwrap();
        last_lines(&path, count)
    }

    #[test]
    fn console_lines_have_no_hidden_characters() {
        let text = "\x1b[2Jone\r\n\r\n\x07t\u{202e}w\u{9b}o";
        assert_eq!(console(text.as_bytes(), 5), ["[2Jone", "two"]);
        assert!(last_lines(Path::new("/nonexistent"), 5).is_empty());
    }

    #[test]
    fn console_lines_start_at_the_reason_of_a_kernel_panic() {
        let text = b"up\nKernel panic - not syncing: why\na\nb\nc\nd\n";
        assert_eq!(console(text, 3), ["Kernel panic - not syncing: why", "a", "b"]);
    }
}
