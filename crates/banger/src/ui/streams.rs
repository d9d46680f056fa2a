//! Standard output and standard error; in tests, buffers in their place.

use std::io::{self, IsTerminal, Write};

/// The streams that a [`Ui`](super::Ui) prints to.
#[derive(Debug)]
pub(super) enum Streams {
    /// Those of this process.
    Process,
    /// Buffers, whose standard output may count as a terminal.
    #[cfg(test)]
    Buffers {
        stdout: std::cell::RefCell<Vec<u8>>,
        stderr: std::cell::RefCell<Vec<u8>>,
        stdout_is_terminal: bool,
    },
}

impl Streams {
    pub(super) fn stdout_is_terminal(&self) -> bool {
        match self {
            Self::Process => io::stdout().is_terminal(),
            #[cfg(test)]
            Self::Buffers { stdout_is_terminal, .. } => *stdout_is_terminal,
        }
    }

    /// Prints on standard output.
    pub(super) fn stdout(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Process => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(bytes)?;
                stdout.flush()
            }
            #[cfg(test)]
            Self::Buffers { stdout, .. } => stdout.borrow_mut().write_all(bytes),
        }
    }

    /// Prints text with colours on standard output, which are removed if it is not a terminal.
    pub(super) fn styled_stdout(&self, text: &str) -> io::Result<()> {
        match self {
            Self::Process => anstream::stdout().write_all(text.as_bytes()),
            #[cfg(test)]
            Self::Buffers { .. } => self.stdout(text.as_bytes()),
        }
    }

    /// Prints text with colours on standard error, which are removed if it is not a terminal.
    pub(super) fn styled_stderr(&self, text: &str) -> io::Result<()> {
        match self {
            Self::Process => anstream::stderr().write_all(text.as_bytes()),
            #[cfg(test)]
            Self::Buffers { stderr, .. } => stderr.borrow_mut().write_all(text.as_bytes()),
        }
    }
}
