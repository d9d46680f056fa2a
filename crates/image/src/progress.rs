//! Progress reports and cancellation of long operations.

use std::io::{self, Read};

use crate::ImageError;

/// Receives progress reports and decides whether to continue.
pub trait Progress: Send + Sync {
    /// Reports the start of a named stage.
    fn stage(&self, stage: &str);
    /// Reports the bytes done in this stage, and the total if known.
    fn bytes(&self, done: u64, total: Option<u64>);
    /// Reports the bytes done of one of several concurrent parts of this stage.
    fn part(&self, name: &str, done: u64, total: Option<u64>) {
        let _ = (name, done, total);
    }
    /// Shows a line: a program's output, or a note about skipped content.
    fn log(&self, line: &str);
    /// Returns whether to stop. Called at least every few MiB, and every 100 ms while a program runs.
    fn cancelled(&self) -> bool;
}

/// Ignores all progress, and never cancels.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn stage(&self, _: &str) {}
    fn bytes(&self, _: u64, _: Option<u64>) {}
    fn log(&self, _: &str) {}
    fn cancelled(&self) -> bool {
        false
    }
}

/// Forwards cancellation and log lines, but no progress: used for one of several concurrent parts.
pub(crate) struct CancelOnly<'a>(pub(crate) &'a dyn Progress);

impl Progress for CancelOnly<'_> {
    fn stage(&self, _: &str) {}
    fn bytes(&self, _: u64, _: Option<u64>) {}
    fn log(&self, line: &str) {
        self.0.log(line);
    }
    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}

/// Replaces an error with [`ImageError::Cancelled`] if the operation was cancelled.
///
/// A cancelled input can cause any error.
pub(crate) fn or_cancelled<T>(
    progress: &dyn Progress,
    result: Result<T, ImageError>,
) -> Result<T, ImageError> {
    result.map_err(|error| if progress.cancelled() { ImageError::Cancelled } else { error })
}

/// Returns [`ImageError::Cancelled`] if the operation was cancelled.
pub(crate) fn check(progress: &dyn Progress) -> Result<(), ImageError> {
    if progress.cancelled() { Err(ImageError::Cancelled) } else { Ok(()) }
}

/// A reader that reports progress, and fails once the operation is cancelled.
pub(crate) struct ProgressReader<'a, R> {
    input: R,
    done: u64,
    reported: u64,
    total: Option<u64>,
    progress: &'a dyn Progress,
}

impl<'a, R: Read> ProgressReader<'a, R> {
    pub(crate) fn new(input: R, total: Option<u64>, progress: &'a dyn Progress) -> Self {
        Self { input, done: 0, reported: 0, total, progress }
    }
}

/// Bytes between two progress reports.
const STEP: u64 = 4 << 20;

impl<R: Read> Read for ProgressReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buffer)?;
        self.done += n as u64;
        if n == 0 || self.done - self.reported >= STEP {
            self.reported = self.done;
            self.progress.bytes(self.done, self.total);
            if self.progress.cancelled() {
                return Err(io::Error::other("cancelled"));
            }
        }
        Ok(n)
    }
}
