//! Messages of the agent's end of a copy, in lines. If it fails, the last line is the reason.

use banger_proto::ExitStatus;

use super::CopyEvent;

/// Maximum length of a line, in bytes: two paths of maximum length, and some words.
const LINE: usize = 16 << 10;

/// Maximum number of lines that are passed on.
const LINES: usize = 1000;

/// Lines that arrive in pieces, from a guest that may be hostile.
#[derive(Debug, Default)]
pub(super) struct Lines {
    begun: Vec<u8>,
    last: Option<String>,
    told: usize,
}

impl Lines {
    /// Adds `bytes`, and reports every line except the last.
    pub(super) fn push(&mut self, bytes: &[u8], tell: &mut dyn FnMut(CopyEvent)) {
        for byte in bytes {
            match byte {
                b'\n' => self.line(tell),
                _ if self.begun.len() < LINE => self.begun.push(*byte),
                _ => {}
            }
        }
    }

    /// Returns the reason if `status` is a failure, and reports all other lines.
    pub(super) fn end(&mut self, status: ExitStatus, tell: &mut dyn FnMut(CopyEvent)) -> Option<String> {
        if !self.begun.is_empty() {
            self.line(tell);
        }
        match (status, self.last.take()) {
            (ExitStatus::Code(0), last) => {
                self.tell(last, tell);
                None
            }
            (_, Some(last)) => Some(last),
            (ExitStatus::Code(code), None) => Some(format!("the copy failed with exit status {code}")),
            (ExitStatus::Signal(signal), None) => Some(format!("signal {signal} ended the copy")),
        }
    }

    fn line(&mut self, tell: &mut dyn FnMut(CopyEvent)) {
        let line = String::from_utf8_lossy(&self.begun).into_owned();
        self.begun.clear();
        let before = self.last.replace(line);
        self.tell(before, tell);
    }

    fn tell(&mut self, line: Option<String>, tell: &mut dyn FnMut(CopyEvent)) {
        let Some(line) = line else { return };
        self.told += 1;
        match self.told {
            ..LINES => tell(CopyEvent::PassedOver(line)),
            LINES => tell(CopyEvent::PassedOver("further messages are not shown".to_owned())),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(parts: &[&str], status: ExitStatus) -> (Vec<String>, Option<String>) {
        let mut told = Vec::new();
        let mut tell = |event| {
            if let CopyEvent::PassedOver(line) = event {
                told.push(line);
            }
        };
        let mut lines = Lines::default();
        for part in parts {
            lines.push(part.as_bytes(), &mut tell);
        }
        let why = lines.end(status, &mut tell);
        (told, why)
    }

    #[test]
    fn the_last_line_of_a_failure_is_its_reason() {
        let parts = ["a pi", "pe\nanother\nno", " space\n"];
        let (told, why) = heard(&parts, ExitStatus::Code(1));
        assert_eq!((told.len(), why.as_deref()), (2, Some("no space")));
        let (told, why) = heard(&parts, ExitStatus::Code(0));
        assert_eq!((told, why), (vec!["a pipe".into(), "another".into(), "no space".into()], None));
        assert_eq!(heard(&[], ExitStatus::Signal(9)).1.unwrap(), "signal 9 ended the copy");
    }

    #[test]
    fn a_guest_cannot_say_more_than_is_bearable() {
        let (told, why) = heard(&["x\n".repeat(5000).as_str(), &"y".repeat(LINE + 9)], ExitStatus::Code(1));
        assert_eq!((told.len(), why.map(|why| why.len())), (LINES, Some(LINE)));
    }
}
