//! Finds the non-zero runs of a file by content, because copies of a file may have different holes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use banger_api::Digest;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::Progress;

/// Size of a block that becomes a hole if all its bytes are zero.
pub(super) const GRANULARITY: usize = 64 << 10;

/// Maximum number of runs. When it is reached, the last run is extended over the zeros that follow.
const MAX_RUNS: usize = 1 << 19;

static ZEROS: [u8; GRANULARITY] = [0; GRANULARITY];

/// The runs and the digest of a file.
pub(super) struct Scan {
    /// Start and length of each run, in ascending order.
    pub(super) runs: Vec<(u64, u64)>,
    /// Digest of the whole file.
    pub(super) digest: Digest,
}

/// Scans all `size` bytes of `file`.
pub(super) fn scan(file: &File, size: u64, progress: &dyn Progress) -> io::Result<Scan> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    let mut hash = Sha256::new();
    let mut buffer = vec![0; GRANULARITY];
    let (mut at, mut data) = (0, 0);
    while at < size {
        let length = (size - at).min(GRANULARITY as u64);
        let buffer = &mut buffer[..usize::try_from(length).unwrap_or(GRANULARITY)];
        if data < at + length {
            data = next_data(file, at)?.unwrap_or(size);
        }
        if at % (64 << 20) == 0 {
            progress.bytes(at, Some(size));
            if progress.cancelled() {
                return Err(io::Error::other("cancelled"));
            }
        }
        let hole = data >= at + length || {
            file.read_exact_at(buffer, at)?;
            *buffer == ZEROS[..buffer.len()]
        };
        hash.update(if hole { &ZEROS[..buffer.len()] } else { buffer });
        if !hole {
            let full = runs.len() == MAX_RUNS;
            match runs.last_mut() {
                Some((start, run)) if *start + *run == at || full => *run = at + length - *start,
                _ => runs.push((at, length)),
            }
        }
        at += length;
    }
    Ok(Scan { runs, digest: Digest::sha256(hash.finalize().into()) })
}

/// Returns the start of the next data at or after `at`; `at` itself on a file system without holes.
fn next_data(file: &File, at: u64) -> io::Result<Option<u64>> {
    match seek(file, SeekFrom::Data(at)) {
        Ok(data) => Ok(Some(data)),
        Err(Errno::NXIO) => Ok(None),
        Err(Errno::INVAL) => Ok(Some(at)),
        Err(error) => Err(error.into()),
    }
}
