//! What an operation does, while it lasts: a moving line on a terminal, plain lines elsewhere.

use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

use banger_api::{Event, Size};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Ui;

/// How often the moving line moves.
const TICK: Duration = Duration::from_millis(120);

/// Shows an operation's events. Elsewhere than on a terminal, a stage is told only once it shows itself to be a long
/// one by telling how far it is: what takes no time is not worth a line in a log.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    stage: RefCell<String>,
    told: Cell<bool>,
}

impl Progress {
    pub(super) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
            bar.set_style(style);
        }
        Self { bar, stage: RefCell::default(), told: Cell::new(false) }
    }

    /// Shows `event`, as far as it is of the moment; a result or error is for others to tell.
    pub(crate) fn show(&self, ui: &Ui, event: &Event) {
        match event {
            Event::Stage { stage } => {
                stage.clone_into(&mut self.stage.borrow_mut());
                self.told.set(false);
                self.bar.enable_steady_tick(TICK);
                self.say(stage);
            }
            Event::Progress { done, total } => {
                self.tell_stage(ui);
                let done = Size::bytes(*done);
                let of = total.map(|total| format!(" of {}", Size::bytes(total))).unwrap_or_default();
                self.say(&format!("{}: {done}{of}", self.stage.borrow()));
            }
            Event::Log { line } => {
                self.tell_stage(ui);
                self.say(&format!("{}: {line}", self.stage.borrow()));
            }
            Event::Note { message } => self.bar.suspend(|| ui.note(message)),
            Event::Warning { message } => self.bar.suspend(|| ui.warning(message)),
            _ => {}
        }
    }

    /// Takes the moving line away.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    fn say(&self, text: &str) {
        self.bar.set_message(super::harmless(text).replace(['\n', '\t'], " "));
    }

    fn tell_stage(&self, ui: &Ui) {
        if self.bar.is_hidden() && !self.told.replace(true) {
            ui.note(self.stage.borrow());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
