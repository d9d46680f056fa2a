//! Where a file has bytes that are not zero. By its content: two copies of a file may have different holes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use banger_api::Digest;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::Progress;

/// Bytes that are a hole if they are all zero.
pub(super) const GRAIN: usize = 64 << 10;

/// Most runs; beyond, the last one takes in the zeros between.
const MOST: usize = 1 << 19;

static ZEROS: [u8; GRAIN] = [0; GRAIN];

/// Where a file's bytes are, and what they are.
pub(super) struct Scan {
    /// Start and length of each run, ascending.
    pub(super) runs: Vec<(u64, u64)>,
    /// Of the whole file.
    pub(super) digest: Digest,
}

/// Reads all of `file`, which has `size` bytes.
pub(super) fn of(file: &File, size: u64, progress: &dyn Progress) -> io::Result<Scan> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    let mut hash = Sha256::new();
    let mut buffer = vec![0; GRAIN];
    let (mut at, mut data) = (0, 0);
    while at < size {
        let length = (size - at).min(GRAIN as u64);
        let buffer = &mut buffer[..usize::try_from(length).unwrap_or(GRAIN)];
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
            let full = runs.len() == MOST;
            match runs.last_mut() {
                Some((start, run)) if *start + *run == at || full => *run = at + length - *start,
                _ => runs.push((at, length)),
            }
        }
        at += length;
    }
    Ok(Scan { runs, digest: Digest::sha256(hash.finalize().into()) })
}

/// Where data begins, from `at` on; a file system that knows of no holes has it right there.
fn next_data(file: &File, at: u64) -> io::Result<Option<u64>> {
    match seek(file, SeekFrom::Data(at)) {
        Ok(data) => Ok(Some(data)),
        Err(Errno::NXIO) => Ok(None),
        Err(Errno::INVAL) => Ok(Some(at)),
        Err(error) => Err(error.into()),
    }
}
