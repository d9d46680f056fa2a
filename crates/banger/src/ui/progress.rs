//! Progress of an operation: updated lines on a terminal, plain lines elsewhere.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    time::Duration,
};

use banger_api::{OperationEvent, Size, visible_line};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::printer::Ui;

/// Interval of the spinner's updates.
const TICK: Duration = Duration::from_millis(120);

/// Template for the line of a part.
const PART_TEMPLATE: &str =
    "  {prefix} {bar:20} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";

/// Template for a part of unknown size.
const UNSIZED_PART_TEMPLATE: &str = "  {prefix} {binary_bytes}, {binary_bytes_per_sec}";

/// Maximum number of lines for parts; a terminal has few more.
const MAX_PARTS: usize = 8;

/// Shows an operation's events. Off a terminal, a stage is printed only when it reports progress: short stages are
/// not worth a line in a log.
#[derive(Debug)]
pub(crate) struct Progress {
    lines: MultiProgress,
    bar: ProgressBar,
    parts: RefCell<HashMap<String, ProgressBar>>,
    stage: RefCell<String>,
    stage_printed: Cell<bool>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self::on(ProgressDrawTarget::stderr())
    }

    fn on(target: ProgressDrawTarget) -> Self {
        let lines = MultiProgress::with_draw_target(target);
        let bar = lines.add(ProgressBar::no_length());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
            bar.set_style(style);
        }
        Self {
            lines,
            bar,
            parts: RefCell::default(),
            stage: RefCell::default(),
            stage_printed: Cell::new(false),
        }
    }

    /// Shows `event` if it is about progress; others report results and errors.
    pub(crate) fn show(&self, ui: &Ui, event: &OperationEvent) {
        match event {
            OperationEvent::Stage { stage } => {
                stage.clone_into(&mut self.stage.borrow_mut());
                self.stage_printed.set(false);
                self.parts.borrow_mut().drain().for_each(|(_, part)| part.finish_and_clear());
                self.bar.enable_steady_tick(TICK);
                self.set_message(stage);
            }
            OperationEvent::Progress { done, total } => {
                self.print_stage(ui);
                let done = Size::bytes(*done);
                let of_total = total.map(|total| format!(" of {}", Size::bytes(total))).unwrap_or_default();
                self.set_message(&format!("{}: {done}{of_total}", self.stage.borrow()));
            }
            OperationEvent::Part { name, done, total } => self.part(name, *done, *total),
            OperationEvent::Log { line } => {
                self.print_stage(ui);
                self.set_message(&format!("{}: {line}", self.stage.borrow()));
            }
            OperationEvent::Note { message } => self.lines.suspend(|| ui.note(message)),
            OperationEvent::Warning { message } => self.lines.suspend(|| ui.warning(message)),
            _ => {}
        }
    }

    /// Shows one part on its own line until it is complete.
    fn part(&self, name: &str, done: u64, total: Option<u64>) {
        let mut parts = self.parts.borrow_mut();
        if total == Some(done) {
            if let Some(part) = parts.remove(name) {
                part.finish_and_clear();
            }
            return;
        }
        if parts.len() >= MAX_PARTS && !parts.contains_key(name) {
            return;
        }
        let part = parts.entry(name.to_owned()).or_insert_with(|| {
            let part = self.lines.add(ProgressBar::no_length());
            let style = ProgressStyle::with_template(if total.is_some() {
                PART_TEMPLATE
            } else {
                UNSIZED_PART_TEMPLATE
            });
            if let Ok(style) = style {
                part.set_style(style);
            }
            part.set_prefix(visible_line(name));
            part
        });
        if let Some(total) = total {
            part.set_length(total);
        }
        part.set_position(done);
    }

    /// Removes the progress lines.
    pub(crate) fn clear(&self) {
        self.parts.borrow_mut().drain().for_each(|(_, part)| part.finish_and_clear());
        self.bar.finish_and_clear();
    }

    fn set_message(&self, text: &str) {
        self.bar.set_message(visible_line(text));
    }

    fn print_stage(&self, ui: &Ui) {
        if self.lines.is_hidden() && !self.stage_printed.replace(true) {
            ui.note(self.stage.borrow());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use banger_api::is_hidden;
    use indicatif::TermLike;
    use proptest::prelude::*;

    use super::*;

    /// A terminal that keeps the text written to it.
    #[derive(Debug, Clone, Default)]
    struct Terminal(Arc<Mutex<String>>);

    impl TermLike for Terminal {
        fn width(&self) -> u16 {
            200
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn progress_lines_have_no_hidden_character(text in "[a-z\\x00-\\x1f\\u{7f}-\\u{9f}\\u{202e}\\u{200b} ]{0,40}") {
            let terminal = Terminal::default();
            let progress = Progress::on(ProgressDrawTarget::term_like(Box::new(terminal.clone())));
            let ui = Ui::new(0, false);
            for event in [
                OperationEvent::Stage { stage: text.clone() },
                OperationEvent::Progress { done: 1, total: None },
                OperationEvent::Part { name: text.clone(), done: 1, total: Some(2) },
                OperationEvent::Log { line: text.clone() },
            ] {
                progress.show(&ui, &event);
            }
            drop(progress);
            let printed = terminal.0.lock().unwrap();
            prop_assert!(!printed.is_empty());
            prop_assert!(!printed.contains(|c| is_hidden(c) && c != '\n'), "{printed:?}");
        }
    }
}
