//! A file that one thread writes while others read it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A file that is being written. Readers wait for the bytes that are still missing.
#[derive(Default)]
pub(super) struct GrowingFile {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// `None` until the file is known.
    file: Option<Arc<File>>,
    /// Readable bytes at the beginning. Shrinks when the writer has to start over.
    length: u64,
    end: Option<End>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Complete,
    /// No more bytes will arrive. The writer reports the reason elsewhere.
    Aborted,
}

impl GrowingFile {
    /// Makes the first `length` bytes of `file` readable.
    pub(super) fn set_length(&self, file: &Arc<File>, length: u64) {
        let mut state = self.state();
        state.file.get_or_insert_with(|| Arc::clone(file));
        state.length = length;
        self.changed.notify_all();
    }

    /// Marks the content as complete and verified.
    pub(super) fn finish(&self) {
        self.state().end.get_or_insert(End::Complete);
        self.changed.notify_all();
    }

    /// Ends the file as broken, unless it is complete. The writer must always call this, because readers wait for it.
    pub(super) fn abort(&self) {
        self.state().end.get_or_insert(End::Aborted);
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for bytes after `position`. Returns the file and its current length, or `None` at the end.
    fn wait_beyond(&self, position: u64) -> io::Result<Option<(Arc<File>, u64)>> {
        let mut state = self.state();
        loop {
            match (&state.file, state.end) {
                (_, Some(End::Aborted)) => return Err(io::Error::other("the download was aborted")),
                (Some(file), _) if state.length > position => {
                    return Ok(Some((Arc::clone(file), state.length)));
                }
                (_, Some(End::Complete)) => return Ok(None),
                _ => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// Reads a growing file from its beginning.
///
/// If the writer starts over, the reader keeps its position and continues once the file reaches it again. The digests
/// of the whole file and of the unpacked content then detect any mixture.
pub(super) struct Follower {
    growing: Arc<GrowingFile>,
    position: u64,
}

impl Follower {
    pub(super) fn new(growing: Arc<GrowingFile>) -> Self {
        Self { growing, position: 0 }
    }
}

impl Read for Follower {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some((file, length)) = self.growing.wait_beyond(self.position)? else { return Ok(0) };
        let max = usize::try_from(length - self.position).unwrap_or(usize::MAX).min(buffer.len());
        let n = file.read_at(&mut buffer[..max], self.position)?;
        self.position += n as u64;
        if n == 0 && max > 0 {
            // The file was truncated since; retry and wait for more bytes.
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn followers_read_all_bytes_and_end_when_the_file_is_complete() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let growing = Arc::new(GrowingFile::default());
        let followers: Vec<_> = (0..3)
            .map(|_| {
                let mut follower = Follower::new(Arc::clone(&growing));
                thread::spawn(move || {
                    let mut bytes = Vec::new();
                    follower.read_to_end(&mut bytes).map(|_| bytes)
                })
            })
            .collect();
        let bytes: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
        let mut done = 0;
        for chunk in bytes.chunks(7_001) {
            file.write_all_at(chunk, done).unwrap();
            done += chunk.len() as u64;
            growing.set_length(&file, done);
            if done > 200_000 && done < 207_001 {
                growing.set_length(&file, 0);
            }
        }
        growing.finish();
        growing.abort();
        for follower in followers {
            assert!(follower.join().unwrap().unwrap() == bytes);
        }
    }

    #[test]
    fn a_follower_of_an_aborted_file_fails() {
        let growing = Arc::new(GrowingFile::default());
        let mut follower = Follower::new(Arc::clone(&growing));
        let reading = thread::spawn(move || follower.read(&mut [0; 8]).map_err(|error| error.to_string()));
        growing.abort();
        assert_eq!(reading.join().unwrap().unwrap_err(), "the download was aborted");
    }
}
