//! Writes a tree to an ext4 file: computes the layout, then writes files in the archives' order.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use banger_api::{Digest, ImageConfig};
use mkext4::{FsBuilder, InodeCount, Layout, RegionSink};

use super::content::ContentReader;
use super::declare::{DeclareError, JOURNAL_BLOCKS, Measure, Unfilled, declare};
use super::empty::{MIN_SIZE, ext4_error, ext4_options};
use super::inspect::System;
use super::tree::{NodeKind, Tree};
use crate::progress;
use crate::publish::{self, parent_dir, write_error};
use crate::{ImageError, Progress};

/// Options for creating a root file system.
#[derive(Debug, Clone, Default)]
pub struct RootfsOptions {
    /// Size of the file system and the file, in bytes. The default is one and a half times the content, and at least
    /// 1 GiB. Unused blocks take no space.
    pub size: Option<u64>,
    /// Label, at most 16 bytes; may be empty.
    pub label: String,
}

/// A description of a root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootfsInfo {
    /// Size of the file system in bytes.
    pub size: u64,
    /// Number of names.
    pub entries: u64,
    /// Path of the init, to which the agent hands over PID 1 ([`banger_proto::find_init`]).
    pub init: Option<String>,
    /// Name of the system in os-release; printable, at most 100 characters.
    pub os: Option<String>,
    /// The image's run configuration; empty for a plain tar.
    pub config: ImageConfig,
    /// Digest of the image's manifest, if it has one.
    pub digest: Option<Digest>,
}

/// Writes the ext4 file `out` from a tree whose files are in `archives`.
pub(crate) fn write_tree(
    tree: &Tree,
    archives: &[&File],
    out: &Path,
    options: &RootfsOptions,
    progress: &dyn Progress,
) -> Result<RootfsInfo, ImageError> {
    let measure = Measure::of(tree);
    let (layout, unfilled) = compute_layout(tree, &measure, out, options, progress)?;
    publish::require_space(parent_dir(out), measure.min_size())?;

    progress.stage("write the file system");
    let (file, temporary) = publish::create_temporary(out)?;
    file.set_len(layout.image_len()).map_err(|source| write_error(source, out, 0))?;
    let (sync_sender, sync_receiver) = sync_channel(1);
    let file = &file;
    let image = ImageSink { file, done: 0, total: measure.min_size(), sync_sender, progress };
    let written = thread::scope(|scope| {
        // Sync while writing, so that little is left for the sync at the end.
        let syncing = scope.spawn(move || sync_receiver.iter().try_for_each(|()| file.sync_data()));
        let written = write(&layout, &unfilled, tree, archives, image);
        let synced = syncing.join().unwrap_or_else(|_| Err(io::Error::other("the sync thread panicked")));
        written.and(synced.map_err(mkext4::Error::Io))
    });
    written.map_err(|error| ext4_error(error, out, measure.min_size()))?;
    progress::check(progress)?;
    publish::publish(file, temporary, out)?;
    Ok(describe(tree, archives, layout.image_len()))
}

/// Describes a file system of `size` bytes with this tree.
pub(super) fn describe(tree: &Tree, archives: &[&File], size: u64) -> RootfsInfo {
    let entries = Measure::of(tree).entries;
    let system = System { tree, archives };
    let (init, os) = (system.init(), system.os());
    RootfsInfo { size, entries, init, os, config: ImageConfig::default(), digest: None }
}

/// Computes the layout, and returns it with the files that need bytes.
fn compute_layout(
    tree: &Tree,
    measure: &Measure,
    out: &Path,
    options: &RootfsOptions,
    progress: &dyn Progress,
) -> Result<(Layout, Vec<Unfilled>), ImageError> {
    let too_small = |size| ImageError::TooSmall { size, needed: measure.min_size() };
    let mut size = options.size.unwrap_or_else(|| measure.default_size());
    if options.size.is_some_and(|size| size >= MIN_SIZE && size < measure.min_size()) {
        return Err(too_small(size));
    }
    loop {
        progress::check(progress)?;
        let mut ext4_options = ext4_options(size, &options.label, InodeCount::Exact(measure.inodes()))?;
        ext4_options.journal_blocks = Some(JOURNAL_BLOCKS);
        let mut builder = FsBuilder::new(ext4_options).map_err(|e| ext4_error(e, out, 0))?;
        let unfilled = declare(tree, &mut builder, progress).map_err(|error| match error {
            DeclareError::Entry(error) => ImageError::Archive(error),
            DeclareError::Ext4(error) => ext4_error(error, out, 0),
        })?;
        match builder.seal() {
            Ok(layout) => return Ok((layout, unfilled)),
            // Every other reason was ruled out before: the content does not fit.
            Err(_) if options.size.is_some() => return Err(too_small(size)),
            Err(error) if size > 2 * measure.default_size() => {
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
    archives: &[&File],
    image: ImageSink<'_>,
) -> mkext4::Result<()> {
    let mut writer = layout.writer(image)?;
    for file in unfilled {
        if let NodeKind::File { size, archive, extents } = &tree.node(file.node).kind
            && let Some(archive) = archives.get(usize::from(*archive))
        {
            writer.fill(file.handle, &mut ContentReader::new(archive, *size, extents))?;
        }
    }
    writer.finish()?;
    Ok(())
}

/// A new file of its final length, with its progress.
struct ImageSink<'a> {
    file: &'a File,
    done: u64,
    total: u64,
    /// Receives a message whenever there is enough to sync.
    sync_sender: SyncSender<()>,
    progress: &'a dyn Progress,
}

impl RegionSink for ImageSink<'_> {
    fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        /// Bytes between two reports.
        const STEP: u64 = 4 << 20;
        /// Bytes between two syncs.
        const SYNC_INTERVAL: u64 = 64 << 20;
        self.file.write_all_at(bytes, offset)?;
        let before = self.done;
        self.done += bytes.len() as u64;
        if before / SYNC_INTERVAL != self.done / SYNC_INTERVAL {
            // The channel is full while an earlier sync runs; the next sync covers these bytes too.
            let _ = self.sync_sender.try_send(());
        }
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
