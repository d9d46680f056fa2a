//! Durations of a command's steps, drawn as a waterfall.

use std::fmt::Write;

use banger_api::{GuestText, Span};

use super::{clock::now_ns, printer::Ui};

/// Maximum width of a bar, in characters.
const BAR_WIDTH: u64 = 40;

/// Maximum length of a step's name, in bytes. The guest names the steps of its boot.
const MAX_NAME: usize = 60;

/// Spans of this process and of the daemon, on the same clock.
#[derive(Debug)]
pub(crate) struct Timing {
    start_ns: u64,
    spans: Vec<Span>,
}

impl Timing {
    pub(crate) fn new(ui: &Ui) -> Self {
        Self { start_ns: ui.start_ns, spans: Vec::new() }
    }

    /// Records that `name` lasted from `start_ns` until now.
    pub(crate) fn record(&mut self, name: &str, start_ns: u64) {
        self.spans.push(Span { name: name.to_owned(), start_ns, end_ns: now_ns() });
    }

    /// Adds the daemon's spans.
    pub(crate) fn add(&mut self, spans: Vec<Span>) {
        self.spans.extend(spans);
    }

    /// Prints all spans; `until_ns` is the time of the guest's first byte.
    pub(crate) fn print(mut self, ui: &Ui, until_ns: u64) {
        self.spans.push(Span { name: "total".to_owned(), start_ns: self.start_ns, end_ns: until_ns });
        ui.notes(self.waterfall());
    }

    fn waterfall(&self) -> String {
        let end = self.spans.iter().map(|span| span.end_ns).max().unwrap_or(0);
        let total = end.saturating_sub(self.start_ns).max(1);
        let mut spans: Vec<_> = self.spans.iter().collect();
        spans.sort_by_key(|span| (span.name == "total", span.start_ns, std::cmp::Reverse(span.end_ns)));
        let name = |span: &Span| GuestText::bounded(&span.name, MAX_NAME).to_string();
        let name_width = spans.iter().map(|span| name(span).chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for span in spans {
            let from = span.start_ns.saturating_sub(self.start_ns).min(total);
            let length = span.end_ns.saturating_sub(span.start_ns);
            let indent = usize::try_from(from * BAR_WIDTH / total).unwrap_or(0);
            let bar = usize::try_from((length * BAR_WIDTH).div_ceil(total)).unwrap_or(0).max(1);
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{:name_width$} {:>9.1} ms  {}{}",
                name(span),
                ms(length),
                " ".repeat(indent),
                "#".repeat(bar)
            );
        }
        text.truncate(text.trim_end().len());
        text
    }
}

#[allow(clippy::cast_precision_loss)] // precision is irrelevant for people
fn ms(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_show_the_start_and_length_of_each_span() {
        let span = |name: &str, start: u64, end: u64| Span {
            name: name.into(),
            start_ns: start * 1_000_000,
            end_ns: end * 1_000_000,
        };
        let spans =
            vec![span("total", 0, 100), span("exec", 90, 100), span("boot", 20, 90), span("disks", 10, 20)];
        insta::assert_snapshot!(Timing { start_ns: 0, spans }.waterfall(), @r"
        disks      10.0 ms      ####
        boot       70.0 ms          ############################
        exec       10.0 ms                                      ####
        total     100.0 ms  ########################################
        ");
    }
}
