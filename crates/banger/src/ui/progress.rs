//! What an operation does, while it lasts: moving lines on a terminal, plain lines elsewhere.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    time::Duration,
};

use banger_api::{Event, Size};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{printer::Ui, text::harmless};

/// How often the moving line moves.
const TICK: Duration = Duration::from_millis(120);

/// The line of one of several things.
const PART: &str =
    "  {prefix} {bar:20} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";

/// The same, when nobody knows how long it is.
const ENDLESS: &str = "  {prefix} {binary_bytes}, {binary_bytes_per_sec}";

/// Most lines for parts; a terminal has not many more.
const PARTS: usize = 8;

/// Shows an operation's events. Elsewhere than on a terminal, a stage is told only once it shows itself to be a long
/// one by telling how far it is: what takes no time is not worth a line in a log.
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

    /// Shows `event`, as far as it is of the moment; a result or error is for others to tell.
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

    /// Shows one of several things in a line of its own, until it is done.
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

    /// Takes the moving lines away.
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
