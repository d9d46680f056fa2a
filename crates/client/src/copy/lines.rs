//! Messages of the agent's end of a copy, in lines. If it fails, the last line is the reason.

use banger_api::ApiError;
use banger_proto::ExitStatus;

use super::CopyEvent;
use crate::protocol::protocol_error;

/// Maximum length of a line, in bytes: two paths of maximum length, and some words.
const MAX_LINE: usize = 16 << 10;

/// Maximum number of lines that are passed on, and of their bytes.
const MAX_LINES: usize = 1000;
const MAX_REPORTED: usize = 256 << 10;

/// Maximum size of all messages, in bytes: a line for each of some hundred thousand files.
const MAX_RECEIVED: usize = 64 << 20;

/// Lines that arrive in pieces, from a guest that may be hostile.
#[derive(Debug)]
pub(super) struct Lines {
    partial: Vec<u8>,
    last: Option<String>,
    /// Number of bytes received.
    received: usize,
    /// Numbers of lines and of their bytes that may still be passed on.
    remaining: (usize, usize),
}

impl Default for Lines {
    fn default() -> Self {
        Self { partial: Vec::new(), last: None, received: 0, remaining: (MAX_LINES, MAX_REPORTED) }
    }
}

impl Lines {
    /// Adds `bytes`, and reports every line except the last.
    ///
    /// # Errors
    /// Returns an error if the guest has sent too many.
    pub(super) fn push(&mut self, bytes: &[u8], on_event: &mut dyn FnMut(CopyEvent)) -> Result<(), ApiError> {
        self.received = self.received.saturating_add(bytes.len());
        if self.received > MAX_RECEIVED {
            let message = format!("it sent more than {} MiB of messages", MAX_RECEIVED >> 20);
            return Err(protocol_error(&message));
        }
        for byte in bytes {
            match byte {
                b'\n' => self.line(on_event),
                _ if self.partial.len() < MAX_LINE => self.partial.push(*byte),
                _ => {}
            }
        }
        Ok(())
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
        match self.remaining {
            (0, _) => {}
            (lines @ 2.., bytes) if line.len() <= bytes => {
                self.remaining = (lines - 1, bytes - line.len());
                on_event(CopyEvent::Skipped(line));
            }
            _ => {
                self.remaining = (0, 0);
                on_event(CopyEvent::Skipped("further messages are not shown".to_owned()));
            }
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
            lines.push(chunk.as_bytes(), &mut on_event).unwrap();
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
        let long = format!("{}\n", "x".repeat(MAX_LINE)).repeat(100);
        let (reported, _) = collect(&[&long], ExitStatus::Code(0));
        assert_eq!(reported.len(), MAX_REPORTED / MAX_LINE + 1);
        assert_eq!(reported.last().unwrap(), "further messages are not shown");
    }
}
