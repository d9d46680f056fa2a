//! From a tar stream to an ext4 file: spooled, indexed, laid out, written.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use mkext4::{FsBuilder, InodeCount, Layout, RegionSink};

use super::content::Content;
use super::declare::{DeclareError, JOURNAL, Measure, Unfilled, declare};
use super::empty::{MIN_SIZE, ext4_error, frame};
use super::index::index;
use super::inspect;
use super::tree::{NodeKind, Tree};
use crate::archive::{ArchiveError, TarReader};
use crate::codec::{self, Packing};
use crate::error::IoContext;
use crate::progress::{self, Watched};
use crate::publish::{self, folder_of, write_error};
use crate::{ImageError, Progress};

/// Most bytes of an archive, unpacked.
const MAX_ARCHIVE: u64 = 256 << 30;

/// Bytes copied to the spool at once.
const CHUNK: usize = 1 << 20;

/// How a root file system is made.
#[derive(Debug, Clone, Default)]
pub struct RootfsOptions {
    /// Size of the file system in bytes; when none is given, the content's with a little room.
    pub size: Option<u64>,
    /// Its label, at most 16 bytes; may be empty.
    pub label: String,
}

/// What an imported root file system is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootfsInfo {
    /// Size of the file system in bytes.
    pub size: u64,
    /// Bytes of all files in it, holes included.
    pub content: u64,
    /// Names in it.
    pub entries: u64,
    /// The first of `/sbin/init`, `/etc/init` and `/usr/lib/systemd/systemd` that is a program.
    pub init: Option<String>,
    /// What its os-release calls it; printable, at most 100 characters.
    pub os: Option<String>,
}

/// Makes an ext4 file `out` of a tar, plain or packed with gzip, zstd or xz. The same tar gives the same bytes.
///
/// The unpacked tar is kept in a nameless file in `spool_dir` meanwhile. Later entries replace earlier ones of the same
/// name. Extended attributes that ext4 has no place for are left out, and a `/lost+found` too.
///
/// # Errors
/// When the archive is damaged, or an entry of it is not acceptable; when disk or file system are too small; when
/// `progress` says to stop. Then there is no `out`, or the one that was there before.
pub fn import_rootfs(
    input: impl Read,
    spool_dir: &Path,
    out: &Path,
    options: &RootfsOptions,
    progress: &dyn Progress,
) -> Result<RootfsInfo, ImageError> {
    let archive = || spool(input, spool_dir, progress);
    stopped_or(progress, archive().and_then(|archive| import(&archive, out, options, progress)))
}

/// The same, of a file. One that is not packed is read where it is.
///
/// Others may write to the file meanwhile: what is in the image is then what was read, as far as it makes sense.
///
/// # Errors
/// As [`import_rootfs`]; when it is no regular file.
pub fn import_rootfs_file(
    tar: File,
    spool_dir: &Path,
    out: &Path,
    options: &RootfsOptions,
    progress: &dyn Progress,
) -> Result<RootfsInfo, ImageError> {
    let unreadable = |error| ImageError::Archive(ArchiveError::Read(error));
    let meta = tar.metadata().map_err(unreadable)?;
    if !meta.is_file() {
        return Err(unreadable(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")));
    }
    let mut start = [0; 6];
    let length = tar.read_at(&mut start, 0).map_err(unreadable)?;
    if Packing::of(&start[..length]) != Packing::Plain {
        return import_rootfs(tar, spool_dir, out, options, progress);
    }
    stopped_or(progress, import(&tar, out, options, progress))
}

/// Whatever a stopped input makes of the import, the reason is that it was stopped.
fn stopped_or<T>(progress: &dyn Progress, result: Result<T, ImageError>) -> Result<T, ImageError> {
    result.map_err(|error| if progress.cancelled() { ImageError::Cancelled } else { error })
}

fn import(
    archive: &File,
    out: &Path,
    options: &RootfsOptions,
    progress: &dyn Progress,
) -> Result<RootfsInfo, ImageError> {
    progress.stage("check the archive");
    let tree = index(archive, progress)?;
    let measure = Measure::of(&tree);
    let (layout, unfilled) = lay_out(&tree, &measure, out, options, progress)?;
    publish::require_space(folder_of(out), measure.least())?;

    progress.stage("write the file system");
    let (file, temporary) = publish::begin(out)?;
    let image = Image { file: &file, done: 0, total: measure.least(), progress };
    file.set_len(layout.image_len()).map_err(|source| write_error(source, out, 0))?;
    write(&layout, &unfilled, &tree, archive, image).map_err(|e| ext4_error(e, out, measure.least()))?;
    progress::check(progress)?;
    publish::publish(&file, temporary, out)?;
    Ok(RootfsInfo {
        size: layout.image_len(),
        content: measure.content,
        entries: measure.entries,
        init: inspect::init(&tree),
        os: inspect::os(&tree, archive),
    })
}

/// The unpacked archive in a file that has no name.
fn spool(input: impl Read, spool_dir: &Path, progress: &dyn Progress) -> Result<File, ImageError> {
    let mut file = tempfile::tempfile_in(spool_dir).during("create a temporary file in", spool_dir)?;
    let read = |error| ImageError::Archive(ArchiveError::Read(error));
    let unpacked = codec::unpacked(input).map_err(read)?.map_err(|compression| ImageError::Compression {
        what: "the root file system archive".to_owned(),
        compression,
    })?;
    let mut input = Watched::new(unpacked, None, progress);
    let mut start = Vec::new();
    input.by_ref().take(512).read_to_end(&mut start).map_err(read)?;
    refuse_other_than_tar(&start)?;
    // Not before: whoever makes the archive may have a stage of its own until then.
    progress.stage("read the archive");
    let mut input = io::Cursor::new(start).chain(input);
    let mut chunk = vec![0; CHUNK];
    let mut length = 0;
    loop {
        let read = match input.read(&mut chunk) {
            Ok(0) => return Ok(file),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(read(error)),
        };
        length += read as u64;
        if length > MAX_ARCHIVE {
            return Err(ImageError::Archive(ArchiveError::TooMuch { what: "bytes", limit: MAX_ARCHIVE }));
        }
        file.write_all(&chunk[..read])
            .map_err(|source| write_error(source, &spool_dir.join("the unpacked archive"), length))?;
    }
}

/// Refuses an endless stream of something else by its first block, before it has filled the disk.
fn refuse_other_than_tar(start: &[u8]) -> Result<(), ImageError> {
    match TarReader::stream(start).next() {
        Ok(None) => Err(ImageError::Archive(ArchiveError::Empty)),
        Err(error @ (ArchiveError::NotTar | ArchiveError::Empty)) => Err(ImageError::Archive(error)),
        // All else is looked at when all of it is there.
        Ok(Some(_)) | Err(_) => Ok(()),
    }
}

/// Where everything goes in the file system, and the files that want bytes.
fn lay_out(
    tree: &Tree,
    measure: &Measure,
    out: &Path,
    options: &RootfsOptions,
    progress: &dyn Progress,
) -> Result<(Layout, Vec<Unfilled>), ImageError> {
    let too_small = |size| ImageError::TooSmall { size, needed: measure.least() };
    let mut size = options.size.unwrap_or_else(|| measure.fitted().max(MIN_SIZE));
    if options.size.is_some_and(|size| size >= MIN_SIZE && size < measure.least()) {
        return Err(too_small(size));
    }
    loop {
        progress::check(progress)?;
        let mut frame = frame(size, &options.label, InodeCount::Exact(measure.inodes()))?;
        frame.journal_blocks = Some(JOURNAL);
        let mut builder = FsBuilder::new(frame).map_err(|e| ext4_error(e, out, 0))?;
        let unfilled = declare(tree, &mut builder, progress).map_err(|error| match error {
            DeclareError::Entry(error) => ImageError::Archive(error),
            DeclareError::Ext4(error) => ext4_error(error, out, 0),
        })?;
        match builder.seal() {
            Ok(layout) => return Ok((layout, unfilled)),
            // Every other reason was ruled out before: it does not fit.
            Err(_) if options.size.is_some() => return Err(too_small(size)),
            Err(error) if size > 2 * measure.fitted().max(MIN_SIZE) => {
                return Err(ext4_error(error, out, 0));
            }
            Err(_) => size = (size + size / 8).next_multiple_of(1 << 20),
        }
    }
}

fn write(
    layout: &Layout,
    unfilled: &[Unfilled],
    tree: &Tree,
    spool: &File,
    image: Image<'_>,
) -> mkext4::Result<()> {
    let mut writer = layout.writer(image)?;
    for file in unfilled {
        if let NodeKind::File { size, extents } = &tree.node(file.node).kind {
            writer.fill(file.handle, &mut Content::new(spool, *size, extents))?;
        }
    }
    writer.finish()?;
    Ok(())
}

/// A new file of its final length, and how far it is written.
struct Image<'a> {
    file: &'a File,
    done: u64,
    total: u64,
    progress: &'a dyn Progress,
}

impl RegionSink for Image<'_> {
    fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        /// Bytes between two reports.
        const STEP: u64 = 4 << 20;
        self.file.write_all_at(bytes, offset)?;
        let before = self.done;
        self.done += bytes.len() as u64;
        if before / STEP != self.done / STEP {
            self.progress.bytes(self.done.min(self.total), Some(self.total));
            if self.progress.cancelled() {
                return Err(io::Error::other("cancelled"));
            }
        }
        Ok(())
    }

    fn zeros(&mut self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
}
