//! All output: data on standard output, everything else on standard error.

mod checks;
mod clock;
mod console;
mod live;
mod printer;
mod progress;
mod style;
mod table;
mod text;
mod timing;

pub(crate) use clock::now_ns;
pub(crate) use live::LiveTable;
pub(crate) use printer::Ui;
pub(crate) use progress::Progress;
pub(crate) use table::{Format, Output, Table};
pub(crate) use timing::Timing;
