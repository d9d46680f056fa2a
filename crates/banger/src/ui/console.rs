//! Bytes from a guest or a log, printed on standard output.

use std::io::{self, IsTerminal, Write};

use super::text::sanitize;

/// Prints bytes as they arrive; removes control characters on a terminal, so that a guest cannot control it.
#[derive(Debug)]
pub(crate) struct Console {
    is_terminal: bool,
    /// The first bytes of an incomplete character.
    incomplete: Vec<u8>,
}

impl Console {
    pub(super) fn new() -> Self {
        Self { is_terminal: io::stdout().is_terminal(), incomplete: Vec::new() }
    }

    pub(crate) fn print(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut stdout = io::stdout();
        if self.is_terminal {
            stdout.write_all(self.decode(bytes).as_bytes())?;
        } else {
            stdout.write_all(bytes)?;
        }
        stdout.flush()
    }

    fn decode(&mut self, bytes: &[u8]) -> String {
        self.incomplete.extend_from_slice(bytes);
        let complete = self.incomplete.len() - incomplete_suffix(&self.incomplete);
        let rest = self.incomplete.split_off(complete);
        let text = sanitize(&String::from_utf8_lossy(&self.incomplete));
        self.incomplete = rest;
        text
    }
}

/// Returns how many bytes at the end belong to an incomplete character.
fn incomplete_suffix(bytes: &[u8]) -> usize {
    for (before, byte) in bytes.iter().rev().take(3).enumerate() {
        let length = match byte {
            0x80..=0xBF => continue,
            0xC0..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF7 => 4,
            _ => 1,
        };
        return if length > before + 1 { before + 1 } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_characters_are_joined_and_control_characters_removed() {
        let text = "a\u{1b}[31mb äöü 漢字 🙂\r\nend\n";
        for size in 1..8 {
            let mut console = Console { is_terminal: true, incomplete: Vec::new() };
            let shown: String = text.as_bytes().chunks(size).map(|part| console.decode(part)).collect();
            assert_eq!(shown, "a[31mb äöü 漢字 🙂\nend\n", "in pieces of {size}");
        }
    }

    #[test]
    fn invalid_utf8_is_replaced_without_delay() {
        let mut console = Console { is_terminal: true, incomplete: Vec::new() };
        assert_eq!(console.decode(b"\xff\xfe\x80\x80\x80\x80"), "\u{fffd}".repeat(6));
        assert_eq!(console.decode(b"\xe2"), "");
        assert_eq!(console.decode(b"x\n"), "\u{fffd}x\n");
    }
}
