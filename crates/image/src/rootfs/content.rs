//! Reads one file's bytes from the spooled archive by position.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use crate::archive::Extent;

/// Size of an ext4 block, in bytes.
pub(super) const BLOCK: u64 = 4096;

/// Returns the parts of a file that get blocks: its extents, grown to whole blocks and joined where they touch.
///
/// Each is `(offset, length)` in bytes. Only the last may end inside a block, at the file's end.
pub(super) fn runs(size: u64, extents: &[Extent]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::with_capacity(extents.len());
    for extent in extents.iter().filter(|extent| extent.length > 0) {
        let start = extent.at / BLOCK * BLOCK;
        let end = (extent.at + extent.length).next_multiple_of(BLOCK).min(size);
        match runs.last_mut() {
            Some((at, length)) if *at + *length >= start => *length = end.max(*at + *length) - *at,
            _ => runs.push((start, end - start)),
        }
    }
    runs
}

/// Reads the runs of a file in order, with zeros where the archive has no data.
pub(super) struct ContentReader<'a> {
    spool: &'a File,
    extents: &'a [Extent],
    runs: std::vec::IntoIter<(u64, u64)>,
    at: u64,
    end: u64,
}

impl<'a> ContentReader<'a> {
    pub(super) fn new(spool: &'a File, size: u64, extents: &'a [Extent]) -> Self {
        Self { spool, extents, runs: runs(size, extents).into_iter(), at: 0, end: 0 }
    }
}

impl Read for ContentReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.end {
            let Some((at, length)) = self.runs.next() else { return Ok(0) };
            (self.at, self.end) = (at, at + length);
        }
        while let [first, rest @ ..] = self.extents
            && first.at + first.length <= self.at
        {
            self.extents = rest;
        }
        let next = self.extents.first();
        let inside = next.filter(|extent| extent.at <= self.at);
        let until = match (inside, next) {
            (Some(extent), _) => extent.at + extent.length,
            (None, Some(extent)) => extent.at,
            (None, None) => self.end,
        };
        let max = usize::try_from(until.min(self.end) - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = &mut buffer[..max];
        let read = match inside {
            Some(extent) => self.spool.read_at(buffer, extent.archive + (self.at - extent.at))?,
            None => {
                buffer.fill(0);
                buffer.len()
            }
        };
        self.at += read as u64;
        Ok(read)
    }
}
