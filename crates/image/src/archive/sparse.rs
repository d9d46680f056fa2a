//! Sparse files: validates their maps, and reads them with the holes as zeros.

use std::io::{self, Read};

use super::member::Extent;
use super::pax::number;
use crate::error::EntryProblem;

/// Turns `(offset, length)` pairs of a sparse file into extents.
///
/// They must ascend, lie within `size`, and sum up to `stored`, the number of bytes in the archive from `data` on.
pub(super) fn extents(
    map: impl IntoIterator<Item = (u64, u64)>,
    size: u64,
    data: u64,
    stored: u64,
) -> Result<Vec<Extent>, EntryProblem> {
    let mut extents: Vec<Extent> = Vec::new();
    let (mut end, mut used) = (0u64, 0u64);
    for (at, length) in map {
        let next = at.checked_add(length).ok_or(EntryProblem::Sparse)?;
        if at < end || next > size {
            return Err(EntryProblem::Sparse);
        }
        end = next;
        // A map ends with an empty run at the file's end.
        if length > 0 {
            extents.push(Extent { at, archive: data + used, length });
            used = used.checked_add(length).ok_or(EntryProblem::Sparse)?;
            if used > stored {
                return Err(EntryProblem::Sparse);
            }
        }
    }
    if used == stored { Ok(extents) } else { Err(EntryProblem::Sparse) }
}

/// Reads all `size` bytes of a file, with holes as zeros.
///
/// `data` reads the stored bytes, those of `extents`. The result is shorter if `data` ends early.
pub(crate) fn fill_holes<'a>(data: impl Read + 'a, size: u64, extents: &'a [Extent]) -> impl Read + 'a {
    HoleFiller { data, size, extents, position: 0 }
}

struct HoleFiller<'a, R> {
    data: R,
    size: u64,
    /// Extents not yet read to their end.
    extents: &'a [Extent],
    position: u64,
}

impl<R: Read> Read for HoleFiller<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match self.extents {
            [extent, rest @ ..] if extent.at <= self.position => {
                let end = extent.at + extent.length;
                let read = self.data.by_ref().take(end - self.position).read(buffer)?;
                if self.position + read as u64 == end {
                    self.extents = rest;
                }
                read
            }
            extents => {
                let end = extents.first().map_or(self.size, |extent| extent.at);
                io::repeat(0).take(end - self.position).read(buffer)?
            }
        };
        self.position += read as u64;
        Ok(read)
    }
}

/// Parser of the map before the data of a version 1.0 sparse file: decimal lines, the first is the number of pairs.
#[derive(Debug, Default)]
pub(super) struct MapParser {
    line: Vec<u8>,
    expected: Option<usize>,
    numbers: Vec<u64>,
}

impl MapParser {
    /// Parses one block; returns true when the map is complete (the rest of the block is padding).
    pub(super) fn block(&mut self, block: &[u8], max_segments: usize) -> Result<bool, EntryProblem> {
        for byte in block {
            if *byte != b'\n' {
                // The longest u64 has 20 digits.
                if self.line.len() >= 20 {
                    return Err(EntryProblem::Sparse);
                }
                self.line.push(*byte);
                continue;
            }
            let value = number(&self.line).ok_or(EntryProblem::Sparse)?;
            self.line.clear();
            match self.expected {
                None => {
                    let pairs = usize::try_from(value).ok().filter(|n| *n <= max_segments);
                    self.expected = Some(pairs.ok_or(EntryProblem::Sparse)?);
                }
                Some(_) => self.numbers.push(value),
            }
            if self.expected.is_some_and(|pairs| self.numbers.len() == 2 * pairs) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn pairs(self) -> Vec<(u64, u64)> {
        pairs(&self.numbers).collect()
    }
}

/// Returns consecutive numbers as pairs.
pub(super) fn pairs(numbers: &[u64]) -> impl Iterator<Item = (u64, u64)> {
    numbers.chunks_exact(2).map(|pair| (pair[0], pair[1]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn holes_are_read_as_zeros(file: Vec<u8>, runs: Vec<(u8, u8)>, cut in 0usize..64) {
            let (mut expected, mut stored, mut map, mut end) = (vec![0; file.len()], Vec::new(), Vec::new(), 0);
            for (hole, length) in runs {
                let at = end + usize::from(hole);
                end = at + usize::from(length);
                let Some(run) = file.get(at..end) else { break };
                expected[at..end].copy_from_slice(run);
                stored.extend_from_slice(run);
                map.push((at as u64, run.len() as u64));
            }
            let extents = extents(map, file.len() as u64, 512, stored.len() as u64).unwrap();
            let mut read = Vec::new();
            fill_holes(&stored[..], file.len() as u64, &extents).read_to_end(&mut read).unwrap();
            prop_assert_eq!(&read, &expected);

            let short = &stored[..stored.len().saturating_sub(cut)];
            read.clear();
            fill_holes(short, file.len() as u64, &extents).read_to_end(&mut read).unwrap();
            prop_assert_eq!(read.len() == expected.len(), short.len() == stored.len());
            prop_assert!(expected.starts_with(&read));
        }
    }
}
