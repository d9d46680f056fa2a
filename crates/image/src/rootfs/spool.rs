//! Unpacks an archive's bytes into an unnamed file, hashes them, and limits their size.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread;

use banger_api::Digest;
use sha2::Digest as _;

use crate::archive::{ArchiveError, TarReader};
use crate::codec;
use crate::error::IoContext;
use crate::progress::{self, ProgressReader};
use crate::publish::{available_space, write_error};
use crate::{ImageError, Progress};

/// Maximum unpacked size of an archive, in bytes.
const MAX_ARCHIVE: u64 = 256 << 30;

/// Unpacked size that is allowed at any compression ratio, in bytes.
const RATIO_EXEMPT: u64 = 2 << 30;

/// Maximum compression ratio beyond that size. Programs and text reach ten at most.
const RATIO: u64 = 100;

/// Free disk space to keep for others, in bytes.
const RESERVE: u64 = 256 << 20;

/// Size of a chunk, in bytes. One thread unpacks chunks, another hashes and writes them.
const CHUNK: usize = 1 << 20;

/// Maximum number of chunks in flight.
const CHUNKS: usize = 4;

/// Size of a run of zeros that is left as a hole in the spool, in bytes.
const HOLE: usize = 64 << 10;

static ZEROS: [u8; HOLE] = [0; HOLE];

/// The kind of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A whole root file system, which must not be empty.
    Archive,
    /// One of several unpacked at once, which may be empty. The caller reports the progress.
    Layer,
}

/// An unpacked archive.
#[derive(Debug)]
pub(super) struct Spool {
    pub(super) file: File,
    /// Digest of the unpacked bytes.
    pub(super) digest: Digest,
}

/// Unpacks `input` into an unnamed file in `dir`.
pub(super) fn spool(
    input: impl Read,
    kind: Kind,
    dir: &Path,
    progress: &dyn Progress,
) -> Result<Spool, ImageError> {
    let file = tempfile::tempfile_in(dir).during("create a temporary file in", dir)?;
    let read = |error| ImageError::Archive(ArchiveError::Read(error));
    let compressed_length = AtomicU64::new(0);
    let counted = CountingReader { input, count: &compressed_length };
    let decompressed = codec::decompressed(counted).map_err(read)?.map_err(|compression| {
        ImageError::Compression { what: "the root file system archive".to_owned(), compression }
    })?;
    let quiet = progress::CancelOnly(progress);
    let reporter: &dyn Progress = if kind == Kind::Layer { &quiet } else { progress };
    let mut input = ProgressReader::new(decompressed, None, reporter);
    let mut start = Vec::new();
    input.by_ref().take(512).read_to_end(&mut start).map_err(read)?;
    check_is_tar(&start, kind)?;
    // Not earlier, because the source of the archive may report a stage of its own until its first bytes arrive.
    reporter.stage("read the archive");
    let (chunks, chunk_receiver) = sync_channel(CHUNKS);
    let (empty, empty_receiver) = channel();
    for _ in 0..CHUNKS {
        // Cannot fail: the receiver is in this function.
        let _ = empty.send(Vec::with_capacity(CHUNK));
    }
    thread::scope(|scope| {
        let file = &file;
        let writer = scope.spawn(move || write(file, dir, &chunk_receiver, &empty));
        let result =
            unpack(io::Cursor::new(start).chain(input), &compressed_length, &chunks, &empty_receiver);
        drop(chunks);
        let written =
            writer.join().unwrap_or_else(|_| Err(read(io::Error::other("the writer thread panicked"))));
        // If the writer has failed, its error is the cause.
        let digest = written?;
        result.map(|()| digest)
    })
    .map(|digest| Spool { file, digest })
}

/// Fills chunks as long as the writer accepts them.
fn unpack(
    mut input: impl Read,
    compressed_length: &AtomicU64,
    chunks: &SyncSender<Vec<u8>>,
    empty: &Receiver<Vec<u8>>,
) -> Result<(), ImageError> {
    let mut length = 0;
    while let Ok(mut chunk) = empty.recv() {
        chunk.clear();
        let filled = input.by_ref().take(CHUNK as u64).read_to_end(&mut chunk);
        let read = filled.map_err(|error| ImageError::Archive(ArchiveError::Read(error)))?;
        length += read as u64;
        let limit = RATIO_EXEMPT.max(compressed_length.load(Ordering::Relaxed).saturating_mul(RATIO));
        if length > limit {
            return Err(ImageError::Archive(ArchiveError::Bomb { ratio: RATIO }));
        }
        if length > MAX_ARCHIVE {
            return Err(ImageError::Archive(ArchiveError::TooMuch { what: "bytes", limit: MAX_ARCHIVE }));
        }
        if read == 0 || chunks.send(chunk).is_err() {
            break;
        }
    }
    Ok(())
}

/// Hashes and writes chunks until the sender is gone.
fn write(
    file: &File,
    dir: &Path,
    chunks: &Receiver<Vec<u8>>,
    empty: &std::sync::mpsc::Sender<Vec<u8>>,
) -> Result<Digest, ImageError> {
    /// Bytes written between two checks of the free space.
    const SPACE_CHECK_INTERVAL: u64 = 256 << 20;
    let mut hash = sha2::Sha256::new();
    let failed = |source, length| write_error(source, &dir.join("the unpacked archive"), length);
    let (mut at, mut next_check) = (0, 0);
    while let Ok(chunk) = chunks.recv() {
        if at >= next_check {
            next_check = at + SPACE_CHECK_INTERVAL;
            if available_space(dir)? < RESERVE {
                return Err(failed(io::ErrorKind::StorageFull.into(), at + RESERVE));
            }
        }
        hash.update(&chunk);
        for piece in chunk.chunks(HOLE) {
            if *piece != ZEROS[..piece.len()] {
                file.write_all_at(piece, at).map_err(|source| failed(source, at))?;
            }
            at += piece.len() as u64;
        }
        // Fails once everything is unpacked; the buffer is then not needed.
        let _ = empty.send(chunk);
    }
    file.set_len(at).map_err(|source| failed(source, at))?;
    Ok(Digest::sha256(hash.finalize().into()))
}

/// Rejects an endless stream that is not a tar by its first block, instead of filling the disk.
fn check_is_tar(start: &[u8], kind: Kind) -> Result<(), ImageError> {
    match TarReader::stream(start).next() {
        Ok(None) if kind == Kind::Archive => Err(ImageError::Archive(ArchiveError::Empty)),
        Err(error @ (ArchiveError::NotTar | ArchiveError::Empty)) => Err(ImageError::Archive(error)),
        // Other errors are found when the whole archive is read.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// A reader that counts the bytes read.
struct CountingReader<'a, R> {
    input: R,
    count: &'a AtomicU64,
}

impl<R: Read> Read for CountingReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.count.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}
