//! The geometry of a file system, and empty file systems.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use mkext4::{FsBuilder, InodeCount, Options, RegionSink};

use super::content::BLOCK;
use crate::ImageError;
use crate::error::IoContext;
use crate::publish::write_error;

/// Minimum size of a file system, in bytes. The smallest journal may take a quarter of it.
pub(super) const MIN_SIZE: u64 = 16 << 20;

/// Maximum size, in bytes: below 2^32 blocks, ext4's limit without 64-bit block numbers.
const MAX_SIZE: u64 = 15 << 40;

/// Size of a block group, in bytes.
const GROUP: u64 = 128 << 20;

/// A fixed UUID, so that the same input gives the same image. Two such file systems in one VM do not conflict,
/// because nothing mounts them by UUID.
const UUID: [u8; 16] = *b"banger-ext4-fs-1";

/// 2024-01-01, in seconds since the epoch. Used where an archive has no time.
const EPOCH: i64 = 1_704_067_200;

/// Returns options for a file system of `size` bytes, with no blocks reserved for root.
pub(super) fn ext4_options(size: u64, label: &str, inodes: InodeCount) -> Result<Options, ImageError> {
    let reason = match () {
        () if size < MIN_SIZE => "smaller than 16 MiB",
        () if size > MAX_SIZE => "larger than 15 TiB",
        () if !size.is_multiple_of(BLOCK) => "not a multiple of 4096 bytes",
        () if label.len() > 16 || label.contains('\0') => "the label is over 16 bytes or contains a NUL",
        () => {
            let mut options = Options::new(size, UUID, EPOCH);
            options.label = Some(label.to_owned()).filter(|label| !label.is_empty());
            options.reserved_percent = 0;
            options.inodes = inodes;
            return Ok(options);
        }
    };
    Err(ImageError::Geometry { size, label: label.to_owned(), reason })
}

/// Converts an error of the ext4 writer, and detects a full disk.
pub(super) fn ext4_error(error: mkext4::Error, path: &Path, needed: u64) -> ImageError {
    match error {
        mkext4::Error::Io(source) => write_error(source, path, needed),
        source => ImageError::Ext4 { path: path.to_owned(), source },
    }
}

/// Writes an empty ext4 file system with a journal to the file `path`. `size` is in bytes, a multiple of 4096.
///
/// It takes milliseconds: the file is sparse, inode tables stay unwritten, and nothing is synced. For durability,
/// write under another name, sync and rename.
///
/// # Errors
/// Returns an error if the size or the label (16 bytes) is out of range, or if the file cannot be written.
pub fn write_empty_ext4(path: &Path, size: u64, label: &str) -> Result<(), ImageError> {
    let options = ext4_options(size, label, InodeCount::Auto)?;
    let failed = |error| ext4_error(error, path, 0);
    let layout = FsBuilder::new(options.clone()).and_then(FsBuilder::seal).or_else(|error| {
        // The last group is too short for its own tables. Leave it unused, as mke2fs does.
        let size_bytes = size / GROUP * GROUP;
        if size_bytes == 0 {
            return Err(error);
        }
        let mut options = options;
        options.size_bytes = size_bytes;
        FsBuilder::new(options)?.seal()
    });
    let layout = layout.map_err(failed)?;
    let file = File::create(path).during("create", path)?;
    file.set_len(size).map_err(|source| write_error(source, path, 0))?;
    layout.writer(Sparse(&file)).and_then(mkext4::build::ImageWriter::finish).map_err(failed)?;
    Ok(())
}

/// A new file of its final length, in which zeros need no writing.
struct Sparse<'a>(&'a File);

impl RegionSink for Sparse<'_> {
    fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn zeros(&mut self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
}
