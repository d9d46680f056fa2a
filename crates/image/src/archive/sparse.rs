//! Maps of sparse files: checked against the sizes they have to fit.

use super::error::EntryProblem;
use super::member::Extent;
use super::pax::number;

/// Turns `(offset, length)` pairs of a sparse file into extents.
///
/// They must ascend, lie within `size`, and sum up to `stored`, the bytes that lie in the archive from `data` on.
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

/// The map at the start of the data of a version 1.0 sparse file: decimal lines, first their count of pairs.
#[derive(Debug, Default)]
pub(super) struct MapParser {
    line: Vec<u8>,
    expected: Option<usize>,
    numbers: Vec<u64>,
}

impl MapParser {
    /// Takes one block; true when the map is complete (what is left of the block is padding).
    pub(super) fn block(&mut self, block: &[u8], most_segments: usize) -> Result<bool, EntryProblem> {
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
                    let pairs = usize::try_from(value).ok().filter(|n| *n <= most_segments);
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

/// Pairs of neighbours.
pub(super) fn pairs(numbers: &[u64]) -> impl Iterator<Item = (u64, u64)> {
    numbers.chunks_exact(2).map(|pair| (pair[0], pair[1]))
}
