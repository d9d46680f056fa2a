//! Passes a tree to the ext4 writer: computes its size, and declares its inodes.

use std::collections::HashMap;

use mkext4::{FsBuilder, InodeHandle, Meta, SparseSeg, SpecialKind};

use super::content::{BLOCK, runs};
use super::tree::{NodeId, NodeKind, ROOT, Tree};
use crate::Progress;
use crate::archive::{ArchiveError, EntryProblem};

/// Size of the image's journal, in blocks: the minimum, because the image is only mounted read-only.
pub(super) const JOURNAL_BLOCKS: u32 = 1024;

/// Minimum default size of a file system, in bytes.
const MIN_DEFAULT_SIZE: u64 = 1 << 30;

/// Maximum number of names of one file in ext4.
const MAX_LINKS: u32 = 65_000;

/// Maximum length of a symlink's target that fits into its inode, in bytes.
const INLINE_TARGET: usize = 59;

/// Directory that every ext4 has for files that e2fsck recovers.
const LOST_FOUND: &str = "lost+found";

/// The space that a tree needs.
#[derive(Debug, Default)]
pub(super) struct Measure {
    /// Number of names, without the root.
    pub(super) entries: u64,
    /// Number of inodes, with ext4's own.
    pub(super) inodes: u64,
    /// Minimum number of blocks for the content.
    pub(super) blocks: u64,
}

impl Measure {
    /// Measures everything reachable in `tree`.
    pub(super) fn of(tree: &Tree) -> Self {
        // ext4 has ten inodes of its own, and lost+found; a few more do no harm.
        let mut measure = Self { inodes: 12, ..Self::default() };
        let mut seen = vec![false; tree.len()];
        let mut pending = vec![ROOT];
        while let Some(id) = pending.pop() {
            let node = tree.node(id);
            measure.inodes += 1;
            measure.blocks += u64::from(!node.attributes.xattrs.is_empty());
            match &node.kind {
                NodeKind::Directory(dir) => {
                    let mut names = 24;
                    for (name, child) in &dir.children {
                        measure.entries += 1;
                        names += 8 + (name.len() as u64).next_multiple_of(4);
                        if !std::mem::replace(&mut seen[*child as usize], true) {
                            pending.push(*child);
                        }
                    }
                    measure.blocks += names.div_ceil(BLOCK);
                }
                NodeKind::File { size, extents, .. } => {
                    let runs = runs(*size, extents);
                    let blocks: u64 = runs.iter().map(|(_, length)| length.div_ceil(BLOCK)).sum();
                    // A block of the extent tree holds 340 runs of at most 2^15 blocks.
                    let extents = runs.len() as u64 + blocks / (1 << 15);
                    measure.blocks += blocks + if extents > 4 { extents.div_ceil(340) } else { 0 };
                }
                NodeKind::Symlink(target) => measure.blocks += u64::from(target.len() > INLINE_TARGET),
                _ => {}
            }
        }
        measure
    }

    /// Returns the number of inodes to create, with some spare.
    pub(super) fn inodes(&self) -> u32 {
        u32::try_from(self.inodes + self.inodes / 16 + 64).unwrap_or(u32::MAX)
    }

    /// Returns the minimum size, in bytes.
    pub(super) fn min_size(&self) -> u64 {
        (self.blocks + self.inodes / 16 + u64::from(JOURNAL_BLOCKS)) * BLOCK
    }

    /// Returns the default size, in bytes: one and a half times the minimum, and at least 1 GiB. Unused blocks take
    /// no space.
    pub(super) fn default_size(&self) -> u64 {
        (self.min_size() + self.min_size() / 2).next_multiple_of(1 << 20).max(MIN_DEFAULT_SIZE)
    }
}

/// A file whose bytes are still to be written.
#[derive(Debug)]
pub(super) struct Unfilled {
    pub(super) handle: InodeHandle,
    pub(super) node: NodeId,
}

/// The reason why a tree cannot be declared.
#[derive(Debug)]
pub(super) enum DeclareError {
    Entry(ArchiveError),
    Ext4(mkext4::Error),
}

impl From<mkext4::Error> for DeclareError {
    fn from(error: mkext4::Error) -> Self {
        Self::Ext4(error)
    }
}

/// Declares `tree`, directories before their entries and names in order. Returns the files that need bytes, in the
/// archives' order.
pub(super) fn declare(
    tree: &Tree,
    builder: &mut FsBuilder,
    progress: &dyn Progress,
) -> Result<Vec<Unfilled>, DeclareError> {
    let mut unfilled = Vec::new();
    let mut handles: HashMap<NodeId, InodeHandle> = HashMap::with_capacity(tree.len());
    set(tree, ROOT, mkext4::ROOT, builder)?;
    let mut pending = vec![(ROOT, mkext4::ROOT)];
    while let Some((id, parent)) = pending.pop() {
        let Some(dir) = tree.directory(id) else { continue };
        for (name, child) in &dir.children {
            if id == ROOT && &**name == LOST_FOUND {
                progress.log("left out /lost+found: every ext4 file system has its own");
                continue;
            }
            if let Some(first) = handles.get(child) {
                builder.hardlink(parent, name, *first).map_err(|_| {
                    let problem = EntryProblem::TooManyLinks(MAX_LINKS);
                    DeclareError::Entry(ArchiveError::Entry { entry: name.to_string(), problem })
                })?;
                continue;
            }
            let handle = add(tree, *child, parent, name, builder)?;
            handles.insert(*child, handle);
            set(tree, *child, handle, builder)?;
            match &tree.node(*child).kind {
                NodeKind::Directory(_) => pending.push((*child, handle)),
                NodeKind::File { extents, .. } if extents.iter().any(|extent| extent.length > 0) => {
                    unfilled.push(Unfilled { handle, node: *child });
                }
                _ => {}
            }
        }
    }
    unfilled.sort_by_key(|file| match &tree.node(file.node).kind {
        NodeKind::File { archive, extents, .. } => {
            (*archive, extents.first().map_or(0, |extent| extent.archive))
        }
        _ => (0, 0),
    });
    Ok(unfilled)
}

fn add(
    tree: &Tree,
    id: NodeId,
    parent: InodeHandle,
    name: &str,
    builder: &mut FsBuilder,
) -> mkext4::Result<InodeHandle> {
    let meta = meta(tree, id);
    match &tree.node(id).kind {
        NodeKind::Directory(_) => builder.mkdir(parent, name, meta),
        NodeKind::File { size, extents, .. } => match &runs(*size, extents)[..] {
            [(0, length)] if length == size => builder.file(parent, name, meta, *size),
            [] if *size == 0 => builder.file(parent, name, meta, 0),
            runs => builder.file_sparse(parent, name, meta, &segments(*size, runs)),
        },
        NodeKind::Symlink(target) => builder.symlink(parent, name, target, meta),
        NodeKind::Char { major, minor } => {
            builder.mknod(parent, name, meta, SpecialKind::Char { major: *major, minor: *minor })
        }
        NodeKind::Block { major, minor } => {
            builder.mknod(parent, name, meta, SpecialKind::Block { major: *major, minor: *minor })
        }
        NodeKind::Fifo => builder.mknod(parent, name, meta, SpecialKind::Fifo),
    }
}

fn set(tree: &Tree, id: NodeId, handle: InodeHandle, builder: &mut FsBuilder) -> mkext4::Result<()> {
    if id == ROOT {
        builder.set_meta(handle, meta(tree, id))?;
    }
    for (name, value) in &tree.node(id).attributes.xattrs {
        builder.set_xattr(handle, name, value)?;
    }
    Ok(())
}

fn meta(tree: &Tree, id: NodeId) -> Meta {
    let attributes = &tree.node(id).attributes;
    Meta::new(attributes.mode, attributes.uid, attributes.gid, attributes.mtime)
}

/// Converts runs to segments, with the holes between them.
fn segments(size: u64, runs: &[(u64, u64)]) -> Vec<SparseSeg> {
    let mut segments = Vec::with_capacity(2 * runs.len() + 1);
    let mut at = 0;
    for (start, length) in runs {
        if *start > at {
            segments.push(SparseSeg::Hole(start - at));
        }
        segments.push(SparseSeg::Data(*length));
        at = start + length;
    }
    if size > at {
        segments.push(SparseSeg::Hole(size - at));
    }
    segments
}
