//! The terminal in raw mode during a session, always restored at its end.

use std::{
    io,
    sync::{Mutex, PoisonError},
};

use rustix::{
    stdio::stdin,
    termios::{OptionalActions, Termios, tcgetattr, tcsetattr},
};

/// The terminal's original modes, while it is in raw mode.
static ORIGINAL: Mutex<Option<Termios>> = Mutex::new(None);

/// Keeps the terminal in raw mode, where every key reaches the guest, until dropped.
#[derive(Debug)]
pub(crate) struct RawMode(());

impl RawMode {
    /// Switches the terminal on standard input to raw mode.
    pub(crate) fn enter() -> io::Result<Self> {
        let original = tcgetattr(stdin())?;
        let mut raw = original.clone();
        raw.make_raw();
        *ORIGINAL.lock().unwrap_or_else(PoisonError::into_inner) = Some(original);
        let entered = Self(());
        set(&raw)?;
        Ok(entered)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Restores the terminal's original modes if it is in raw mode.
pub(crate) fn restore() {
    if let Some(original) = ORIGINAL.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // A closed terminal needs no restoring.
        let _ = set(&original);
    }
}

/// Sets the modes at once: waiting until all output is shown could take forever on a terminal that is stopped.
fn set(modes: &Termios) -> io::Result<()> {
    Ok(tcsetattr(stdin(), OptionalActions::Now, modes)?)
}
