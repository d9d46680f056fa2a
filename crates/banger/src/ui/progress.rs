//! Progress of an operation: updated lines on a terminal, plain lines elsewhere.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    time::Duration,
};

use banger_api::{Event, Size};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{printer::Ui, text::harmless};

/// Interval of the spinner's updates.
const TICK: Duration = Duration::from_millis(120);

/// Template for the line of a part.
const PART: &str =
    "  {prefix} {bar:20} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";

/// Template for a part of unknown size.
const ENDLESS: &str = "  {prefix} {binary_bytes}, {binary_bytes_per_sec}";

/// Maximum number of lines for parts; a terminal has few more.
const PARTS: usize = 8;

/// Shows an operation's events. Off a terminal, a stage is printed only when it reports progress: short stages are
/// not worth a line in a log.
#[derive(Debug)]
pub(crate) struct Progress {
    lines: MultiProgress,
    bar: ProgressBar,
    parts: RefCell<HashMap<String, ProgressBar>>,
    stage: RefCell<String>,
    told: Cell<bool>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let lines = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let bar = lines.add(ProgressBar::no_length());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
            bar.set_style(style);
        }
        Self { lines, bar, parts: RefCell::default(), stage: RefCell::default(), told: Cell::new(false) }
    }

    /// Shows `event` if it is about progress; others report results and errors.
    pub(crate) fn show(&self, ui: &Ui, event: &Event) {
        match event {
            Event::Stage { stage } => {
                stage.clone_into(&mut self.stage.borrow_mut());
                self.told.set(false);
                self.parts.borrow_mut().drain().for_each(|(_, part)| part.finish_and_clear());
                self.bar.enable_steady_tick(TICK);
                self.say(stage);
            }
            Event::Progress { done, total } => {
                self.tell_stage(ui);
                let done = Size::bytes(*done);
                let of = total.map(|total| format!(" of {}", Size::bytes(total))).unwrap_or_default();
                self.say(&format!("{}: {done}{of}", self.stage.borrow()));
            }
            Event::Part { name, done, total } => self.part(name, *done, *total),
            Event::Log { line } => {
                self.tell_stage(ui);
                self.say(&format!("{}: {line}", self.stage.borrow()));
            }
            Event::Note { message } => self.lines.suspend(|| ui.note(message)),
            Event::Warning { message } => self.lines.suspend(|| ui.warning(message)),
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
        if parts.len() >= PARTS && !parts.contains_key(name) {
            return;
        }
        let part = parts.entry(name.to_owned()).or_insert_with(|| {
            let part = self.lines.add(ProgressBar::no_length());
            let style = ProgressStyle::with_template(if total.is_some() { PART } else { ENDLESS });
            if let Ok(style) = style {
                part.set_style(style);
            }
            part.set_prefix(harmless(name).replace(['\n', '\t'], " "));
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

    fn say(&self, text: &str) {
        self.bar.set_message(harmless(text).replace(['\n', '\t'], " "));
    }

    fn tell_stage(&self, ui: &Ui) {
        if self.lines.is_hidden() && !self.told.replace(true) {
            ui.note(self.stage.borrow());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
