//! A tree as the ext4 writer wants it: how large it gets, and its inodes one by one.

use std::collections::HashMap;

use mkext4::{FsBuilder, InodeHandle, Meta, SparseSeg, SpecialKind};

use super::content::{BLOCK, runs};
use super::tree::{NodeId, NodeKind, ROOT, Tree};
use crate::Progress;
use crate::archive::{ArchiveError, EntryProblem};

/// Blocks of the image's journal, the smallest there is: the image is only ever mounted read-only.
pub(super) const JOURNAL: u32 = 1024;

/// Smallest file system in bytes where nobody says how large it is to be.
const ROOMY: u64 = 1 << 30;

/// Most names of one file in ext4.
const MAX_LINKS: u32 = 65_000;

/// Longest symlink target that fits into its inode, in bytes.
const INLINE_TARGET: usize = 59;

/// The folder that every ext4 has for what e2fsck finds.
const LOST_FOUND: &str = "lost+found";

/// What a tree takes.
#[derive(Debug, Default)]
pub(super) struct Measure {
    /// Names, the root left out.
    pub(super) entries: u64,
    /// Inodes, those that are ext4's own included.
    pub(super) inodes: u64,
    /// Blocks that the content takes at least.
    pub(super) blocks: u64,
}

impl Measure {
    /// Of everything that can be reached in `tree`.
    pub(super) fn of(tree: &Tree) -> Self {
        // ext4 has ten inodes of its own, and lost+found.
        let mut measure = Self { inodes: 12, ..Self::default() };
        let mut seen = vec![false; tree.len()];
        let mut left = vec![ROOT];
        while let Some(id) = left.pop() {
            let node = tree.node(id);
            measure.inodes += 1;
            measure.blocks += u64::from(!node.attributes.xattrs.is_empty());
            match &node.kind {
                NodeKind::Folder(folder) => {
                    let mut names = 24;
                    for (name, child) in &folder.children {
                        measure.entries += 1;
                        names += 8 + (name.len() as u64).next_multiple_of(4);
                        if !std::mem::replace(&mut seen[*child as usize], true) {
                            left.push(*child);
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

    /// Inodes to make, with a little room.
    pub(super) fn inodes(&self) -> u32 {
        u32::try_from(self.inodes + self.inodes / 16 + 64).unwrap_or(u32::MAX)
    }

    /// Bytes needed at least.
    pub(super) fn least(&self) -> u64 {
        (self.blocks + self.inodes / 16 + u64::from(JOURNAL)) * BLOCK
    }

    /// Bytes of a file system with room: half as much again, and at least a GiB. What is not used takes no space.
    pub(super) fn roomy(&self) -> u64 {
        (self.least() + self.least() / 2).next_multiple_of(1 << 20).max(ROOMY)
    }
}

/// A file whose bytes are still to be written.
#[derive(Debug)]
pub(super) struct Unfilled {
    pub(super) handle: InodeHandle,
    pub(super) node: NodeId,
}

/// Why a tree could not be declared.
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

/// Declares `tree`, folders before what is in them and names in order, and tells which files want bytes, in the order
/// in which the archives have them.
pub(super) fn declare(
    tree: &Tree,
    builder: &mut FsBuilder,
    progress: &dyn Progress,
) -> Result<Vec<Unfilled>, DeclareError> {
    let mut unfilled = Vec::new();
    let mut handles: HashMap<NodeId, InodeHandle> = HashMap::with_capacity(tree.len());
    set(tree, ROOT, mkext4::ROOT, builder)?;
    let mut left = vec![(ROOT, mkext4::ROOT)];
    while let Some((id, parent)) = left.pop() {
        let Some(folder) = tree.folder(id) else { continue };
        for (name, child) in &folder.children {
            if id == ROOT && &**name == LOST_FOUND {
                progress.log("left out /lost+found: every ext4 has its own");
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
                NodeKind::Folder(_) => left.push((*child, handle)),
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
        NodeKind::Folder(_) => builder.mkdir(parent, name, meta),
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
    let of = &tree.node(id).attributes;
    Meta::new(of.mode, of.uid, of.gid, of.mtime)
}

/// Runs and the holes between them.
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
