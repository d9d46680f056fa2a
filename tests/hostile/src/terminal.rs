//! What may reach the user's terminal.

use crate::{command::Origin, texts::FORGED};

/// Sequences with which banger colours words.
const STYLES: [&str; 6] = ["\x1b[0m", "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[36m"];

/// Words at the start of a line that only banger writes.
const LABELS: [&str; 4] = ["error:", "hint:", "warning:", "log:"];

/// Returns what is wrong with `output`, which a user sees. If it is `redrawn`, it may have sequences that banger uses
/// to redraw its progress.
pub(crate) fn problems(output: &[u8], origin: Origin, redrawn: bool) -> Vec<String> {
    if origin == Origin::Guest {
        return Vec::new();
    }
    let Ok(text) = std::str::from_utf8(output) else { return vec!["it is not UTF-8".to_owned()] };
    let mut text = text.to_owned();
    for style in STYLES {
        text = text.replace(style, "");
    }
    if redrawn {
        text = without_redrawing(&text);
    }
    let mut problems = Vec::new();
    for (number, line) in text.split('\n').enumerate() {
        let is_forged = |label: &&&str| {
            line.strip_prefix(**label).is_some_and(|rest| rest.trim_start().starts_with(FORGED))
        };
        if let Some(label) = LABELS.iter().find(is_forged).filter(|_| origin == Origin::Banger) {
            problems.push(format!("line {number} has a `{label}` of the guest's"));
        }
        if let Some(unsafe_char) = line.chars().find(|char| !is_safe(*char)) {
            problems.push(format!("line {number} has {unsafe_char:?} in {line:?}"));
        }
    }
    problems
}

/// Removes the sequences with which progress is redrawn: a carriage return, moves by lines, and erasures.
fn without_redrawing(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let mut rest = parts.next().unwrap_or_default().replace('\r', "");
    for part in parts {
        let after_number = part.trim_start_matches(|char: char| char.is_ascii_digit());
        match after_number.strip_prefix(['A', 'B', 'J', 'K']) {
            // The guest's erasure of the whole screen is not one of them.
            Some(after) if !part.starts_with("2J") => rest.push_str(&after.replace('\r', "")),
            _ => {
                rest.push_str("\x1b[");
                rest.push_str(part);
            }
        }
    }
    rest
}

/// Returns whether a terminal shows the character where it is, and nothing else.
fn is_safe(char: char) -> bool {
    let is_bidirectional = matches!(
        char,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    char == '\t' || !char.is_control() && !is_bidirectional
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bangers_own_lines_are_accepted_and_the_guests_are_not() {
        let own = "\x1b[1m\x1b[31merror:\x1b[0m in VM box: no\n\x1b[36mhint:\x1b[0m see\tthere\n";
        assert_eq!(problems(own.as_bytes(), Origin::Banger, false), [""; 0]);
        for (forged, count) in [
            ("error: no\nhint: FORGED", 1),
            ("\x1b[36mhint:\x1b[0m FORGED", 1),
            ("a\rb", 1),
            ("a\x1b[2Jb", 1),
            ("\u{9b}31m\nerror: FORGED \u{202e}", 3),
            ("\x7f", 1),
        ] {
            assert_eq!(problems(forged.as_bytes(), Origin::Banger, false).len(), count, "{forged:?}");
        }
        assert_eq!(problems(b"error: FORGED", Origin::Console, false), [""; 0]);
        assert_eq!(problems(b"\x1b", Origin::Guest, false), [""; 0]);
        assert_eq!(problems(b"\xff", Origin::Banger, false).len(), 1);
        assert_eq!(problems(b"\r\x1b[2Ka\x1b[1A\x1b[K", Origin::Banger, true), [""; 0]);
        assert_eq!(problems(b"\x1b[2J\x1b]0;a", Origin::Banger, true).len(), 1);
    }
}
