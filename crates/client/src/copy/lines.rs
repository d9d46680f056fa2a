//! Messages of the agent's end of a copy, in lines. If it fails, the last line is the reason.

use banger_proto::ExitStatus;

use super::CopyEvent;

/// Maximum length of a line, in bytes: two paths of maximum length, and some words.
const MAX_LINE: usize = 16 << 10;

/// Maximum number of lines that are passed on.
const MAX_LINES: usize = 1000;

/// Lines that arrive in pieces, from a guest that may be hostile.
#[derive(Debug, Default)]
pub(super) struct Lines {
    partial: Vec<u8>,
    last: Option<String>,
    reported: usize,
}

impl Lines {
    /// Adds `bytes`, and reports every line except the last.
    pub(super) fn push(&mut self, bytes: &[u8], on_event: &mut dyn FnMut(CopyEvent)) {
        for byte in bytes {
            match byte {
                b'\n' => self.line(on_event),
                _ if self.partial.len() < MAX_LINE => self.partial.push(*byte),
                _ => {}
            }
        }
    }

    /// Returns the reason if `status` is a failure, and reports all other lines.
    pub(super) fn end(&mut self, status: ExitStatus, on_event: &mut dyn FnMut(CopyEvent)) -> Option<String> {
        if !self.partial.is_empty() {
            self.line(on_event);
        }
        match (status, self.last.take()) {
            (ExitStatus::Code(0), last) => {
                self.report(last, on_event);
                None
            }
            (_, Some(last)) => Some(last),
            (ExitStatus::Code(code), None) => Some(format!("the copy failed with exit status {code}")),
            (ExitStatus::Signal(signal), None) => Some(format!("signal {signal} ended the copy")),
        }
    }

    fn line(&mut self, on_event: &mut dyn FnMut(CopyEvent)) {
        let line = String::from_utf8_lossy(&self.partial).into_owned();
        self.partial.clear();
        let before = self.last.replace(line);
        self.report(before, on_event);
    }

    fn report(&mut self, line: Option<String>, on_event: &mut dyn FnMut(CopyEvent)) {
        let Some(line) = line else { return };
        self.reported += 1;
        match self.reported {
            ..MAX_LINES => on_event(CopyEvent::Skipped(line)),
            MAX_LINES => on_event(CopyEvent::Skipped("further messages are not shown".to_owned())),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(chunks: &[&str], status: ExitStatus) -> (Vec<String>, Option<String>) {
        let mut reported = Vec::new();
        let mut on_event = |event| {
            if let CopyEvent::Skipped(line) = event {
                reported.push(line);
            }
        };
        let mut lines = Lines::default();
        for chunk in chunks {
            lines.push(chunk.as_bytes(), &mut on_event);
        }
        let why = lines.end(status, &mut on_event);
        (reported, why)
    }

    #[test]
    fn the_last_line_of_a_failure_is_its_reason() {
        let chunks = ["a pi", "pe\nanother\nno", " space\n"];
        let (reported, why) = collect(&chunks, ExitStatus::Code(1));
        assert_eq!((reported.len(), why.as_deref()), (2, Some("no space")));
        let (reported, why) = collect(&chunks, ExitStatus::Code(0));
        assert_eq!((reported, why), (vec!["a pipe".into(), "another".into(), "no space".into()], None));
        assert_eq!(collect(&[], ExitStatus::Signal(9)).1.unwrap(), "signal 9 ended the copy");
    }

    #[test]
    fn the_number_and_length_of_lines_are_limited() {
        let (reported, why) =
            collect(&["x\n".repeat(5000).as_str(), &"y".repeat(MAX_LINE + 9)], ExitStatus::Code(1));
        assert_eq!((reported.len(), why.map(|why| why.len())), (MAX_LINES, Some(MAX_LINE)));
    }
}
