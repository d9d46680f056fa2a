//! Messages of the agent's end of a copy, in lines. If it fails, the last line is the reason.

use banger_api::{ApiError, GuestText};
use banger_proto::ExitStatus;

use super::CopyEvent;
use crate::protocol::protocol_error;

/// Maximum number of lines that are passed on, and of their bytes.
const MAX_LINES: usize = 1000;
const MAX_REPORTED: usize = 256 << 10;

/// Maximum size of all messages, in bytes: a line for each of some hundred thousand files.
const MAX_RECEIVED: usize = 64 << 20;

/// Lines that arrive in pieces, from a guest that may be hostile.
#[derive(Debug)]
pub(super) struct Lines {
    partial: Vec<u8>,
    last: Option<GuestText>,
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
                // A longer line is cut, and marked as such.
                _ if self.partial.len() <= GuestText::MAX => self.partial.push(*byte),
                _ => {}
            }
        }
        Ok(())
    }

    /// Returns the reason if `status` is a failure, and reports all other lines.
    pub(super) fn end(
        &mut self,
        status: ExitStatus,
        on_event: &mut dyn FnMut(CopyEvent),
    ) -> Option<GuestText> {
        if !self.partial.is_empty() {
            self.line(on_event);
        }
        match (status, self.last.take()) {
            (ExitStatus::Code(0), last) => {
                self.report(last, on_event);
                None
            }
            (_, Some(last)) => Some(last),
            (ExitStatus::Code(code), None) => {
                Some(GuestText::new(&format!("the copy failed with exit status {code}")))
            }
            (ExitStatus::Signal(signal), None) => {
                Some(GuestText::new(&format!("signal {signal} ended the copy")))
            }
        }
    }

    fn line(&mut self, on_event: &mut dyn FnMut(CopyEvent)) {
        let line = GuestText::from_bytes(&self.partial);
        self.partial.clear();
        if !line.as_str().is_empty() {
            let before = self.last.replace(line);
            self.report(before, on_event);
        }
    }

    fn report(&mut self, line: Option<GuestText>, on_event: &mut dyn FnMut(CopyEvent)) {
        let Some(line) = line else { return };
        let length = line.as_str().len();
        match self.remaining {
            (0, _) => {}
            (lines @ 2.., bytes) if length <= bytes => {
                self.remaining = (lines - 1, bytes - length);
                on_event(CopyEvent::Skipped(line.reported()));
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

    fn collect(chunks: &[&[u8]], status: ExitStatus) -> (Vec<String>, Option<GuestText>) {
        let mut reported = Vec::new();
        let mut on_event = |event| {
            if let CopyEvent::Skipped(line) = event {
                reported.push(line);
            }
        };
        let mut lines = Lines::default();
        for chunk in chunks {
            lines.push(chunk, &mut on_event).unwrap();
        }
        let why = lines.end(status, &mut on_event);
        (reported, why)
    }

    #[test]
    fn the_last_line_of_a_failure_is_its_reason() {
        let chunks = [&b"a pi"[..], b"pe\nanother\nno", b" space\n"];
        let marked = ["a pipe", "another", "no space"].map(|line| format!("the guest reports: {line}"));
        let (reported, why) = collect(&chunks, ExitStatus::Code(1));
        assert_eq!((&reported[..], why.unwrap().as_str()), (&marked[..2], "no space"));
        assert_eq!(collect(&chunks, ExitStatus::Code(0)), (marked.to_vec(), None));
        assert_eq!(collect(&[], ExitStatus::Signal(9)).1.unwrap().as_str(), "signal 9 ended the copy");
    }

    #[test]
    fn lines_of_a_guest_are_marked_and_have_no_hidden_characters() {
        let (reported, why) = collect(&[b"a\x1b[2J\xe2\x80\xae\xff\n\n\rhint: run\n"], ExitStatus::Code(1));
        assert_eq!(reported, ["the guest reports: a^[[2J<U+202E>\u{fffd}"]);
        assert_eq!(why.unwrap().as_str(), "hint: run");
    }

    #[test]
    fn the_number_and_length_of_lines_are_limited() {
        let (reported, why) = collect(&[&b"x\n".repeat(5000), &vec![b'y'; 1 << 20]], ExitStatus::Code(1));
        let why = why.unwrap();
        assert_eq!((reported.len(), why.as_str().len()), (MAX_LINES, GuestText::MAX));
        assert!(why.as_str().ends_with("y[…]"));
        let long = [b"x".repeat(GuestText::MAX), b"\n".to_vec()].concat().repeat(200);
        let (reported, _) = collect(&[&long], ExitStatus::Code(0));
        assert_eq!(reported.len(), MAX_REPORTED / GuestText::MAX + 1);
        assert_eq!(reported.last().unwrap(), "further messages are not shown");
    }
}
