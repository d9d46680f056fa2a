//! The terminal in raw mode during a session, always restored at its end.

use std::io;

use rustix::{
    stdio::stdin,
    termios::{OptionalActions, Termios, tcgetattr, tcsetattr},
};

/// Keeps the terminal in raw mode, where every key reaches the guest, until dropped.
#[derive(Debug)]
pub(crate) struct RawMode {
    original: Termios,
}

impl RawMode {
    /// Switches the terminal on standard input to raw mode.
    pub(crate) fn enter() -> io::Result<Self> {
        let original = tcgetattr(stdin())?;
        let mut raw = original.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Drain, &raw)?;
        Ok(Self { original })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A closed terminal needs no restoring.
        let _ = tcsetattr(stdin(), OptionalActions::Drain, &self.original);
    }
}
