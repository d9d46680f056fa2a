//! How long work tells what it is doing, and learns that it is no longer wanted.

use std::io::{self, Read};

use crate::ImageError;

/// Receives the progress of an import, and is asked whether to go on.
pub trait Progress: Send + Sync {
    /// A named stage begins.
    fn stage(&self, stage: &str);
    /// Bytes done in this stage so far, of `total` where that is known.
    fn bytes(&self, done: u64, total: Option<u64>);
    /// Bytes done so far of one of several things that are under way at once in this stage.
    fn part(&self, name: &str, done: u64, total: Option<u64>) {
        let _ = (name, done, total);
    }
    /// One line worth showing: a program's output, or something skipped.
    fn log(&self, line: &str);
    /// Whether the work should stop; asked at least every few MiB and every 100 ms while a program runs.
    fn cancelled(&self) -> bool;
}

/// Progress that nobody watches.
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

/// Tells nothing of how far one of several things is, and learns that none is wanted any more.
pub(crate) struct OnlyStopping<'a>(pub(crate) &'a dyn Progress);

impl Progress for OnlyStopping<'_> {
    fn stage(&self, _: &str) {}
    fn bytes(&self, _: u64, _: Option<u64>) {}
    fn log(&self, line: &str) {
        self.0.log(line);
    }
    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}

/// Whatever a stopped input makes of some work, the reason is that it was stopped.
pub(crate) fn stopped_or<T>(progress: &dyn Progress, result: Result<T, ImageError>) -> Result<T, ImageError> {
    result.map_err(|error| if progress.cancelled() { ImageError::Cancelled } else { error })
}

/// Fails with [`ImageError::Cancelled`] once the caller wants to stop.
pub(crate) fn check(progress: &dyn Progress) -> Result<(), ImageError> {
    if progress.cancelled() { Err(ImageError::Cancelled) } else { Ok(()) }
}

/// A reader that reports how far it is, and fails once the caller wants to stop.
pub(crate) struct Watched<'a, R> {
    input: R,
    done: u64,
    reported: u64,
    total: Option<u64>,
    progress: &'a dyn Progress,
}

impl<'a, R: Read> Watched<'a, R> {
    pub(crate) fn new(input: R, total: Option<u64>, progress: &'a dyn Progress) -> Self {
        Self { input, done: 0, reported: 0, total, progress }
    }
}

/// Bytes between two reports.
const STEP: u64 = 4 << 20;

impl<R: Read> Read for Watched<'_, R> {
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
