//! All output: data on standard output, everything else on standard error.

mod checks;
mod clock;
mod console;
mod json;
mod last_words;
mod live;
mod printer;
mod progress;
mod streams;
mod style;
mod table;
mod text;
mod timing;

#[cfg(test)]
pub(crate) use checks::JsonCheck;
pub(crate) use clock::now_ns;
pub(crate) use console::Console;
pub(crate) use last_words::last_words;
pub(crate) use live::LiveTable;
#[cfg(test)]
pub(crate) use printer::JsonError;
pub(crate) use printer::Ui;
pub(crate) use progress::Progress;
pub(crate) use table::{Format, Output, Table, is_json};
pub(crate) use timing::Timing;
