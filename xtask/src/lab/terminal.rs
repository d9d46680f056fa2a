//! The developer's terminal, as used by a shell in the lab.

use std::{env, io};

use anyhow::Result;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Returns the terminal's size and type as shell assignments for the lab's init.
pub(super) fn description() -> Result<String> {
    let size = tcgetwinsize(io::stdin()).ok().filter(|size| size.ws_row > 0);
    let (rows, columns) = size.map_or((24, 80), |size| (size.ws_row, size.ws_col));
    let safe = |name: &String| name.chars().all(|c| c.is_ascii_alphanumeric() || "-+.".contains(c));
    let kind = env::var("TERM").ok().filter(safe).unwrap_or_else(|| "linux".into());
    Ok(format!("ROWS={rows}\nCOLUMNS={columns}\nTERM={kind}\n"))
}

/// The terminal in raw mode, so that the lab receives every key. Dropping it restores the mode.
#[derive(Debug)]
pub(super) struct RawMode {
    before: Option<Termios>,
}

impl RawMode {
    /// Enters raw mode. Does nothing if standard input is not a terminal.
    pub(super) fn enter() -> Result<Self> {
        let before = tcgetattr(io::stdin()).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            tcsetattr(io::stdin(), OptionalActions::Flush, &raw)?;
        }
        Ok(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(io::stdin(), OptionalActions::Drain, before);
        }
    }
}
