//! From an archive's members to a tree: names checked, links resolved in the tree, limits kept.

use std::fs::File;

use super::tree::{Attributes, Node, NodeKind, Tree};
use super::xattr;
use crate::archive::{ArchiveError, EntryProblem, Member, MemberKind, NAME_MAX, TarReader};
use crate::progress;
use crate::{ImageError, Progress};

/// Most entries of one archive, and most nodes of a tree; a large development system has one million.
const MAX_ENTRIES: u64 = 4_000_000;

/// Most bytes of all files together, holes included: what keeps sums within 64 bits.
const MAX_BYTES: u64 = 1 << 50;

/// Reads the headers of the archive in `spool`.
pub(super) fn index(spool: &File, progress: &dyn Progress) -> Result<Tree, ImageError> {
    let refused = ImageError::Archive;
    let too_much = |what, limit| refused(ArchiveError::TooMuch { what, limit });
    let mut tar = TarReader::seekable(spool).map_err(refused)?;
    let mut tree = Tree::new();
    let (mut entries, mut bytes) = (0u64, 0u64);
    while let Some(member) = tar.next().map_err(refused)? {
        progress::check(progress)?;
        entries += 1;
        if let MemberKind::File { size, .. } = &member.kind {
            bytes = bytes.saturating_add(*size);
        }
        let path = member.path.clone();
        put(&mut tree, member).map_err(|problem| refused(ArchiveError::Entry { entry: path, problem }))?;
        if entries.max(tree.len() as u64) > MAX_ENTRIES {
            return Err(too_much("entries", MAX_ENTRIES));
        }
        if bytes > MAX_BYTES {
            return Err(too_much("bytes", MAX_BYTES));
        }
    }
    if entries == 0 { Err(refused(ArchiveError::Empty)) } else { Ok(tree) }
}

fn put(tree: &mut Tree, member: Member) -> Result<(), EntryProblem> {
    let path = parts(&member.path, "its name")?;
    let attributes = Attributes {
        mode: member.mode,
        uid: member.uid,
        gid: member.gid,
        mtime: member.mtime,
        xattrs: xattr::stored(member.xattrs)?,
    };
    let kind = match member.kind {
        MemberKind::Folder => return tree.put_folder(&path, attributes),
        MemberKind::HardLink(target) => return tree.put_link(&path, &parts(&target, "its target")?),
        MemberKind::File { size, extents } => NodeKind::File { size, extents },
        MemberKind::Symlink(target) => NodeKind::Symlink(target),
        MemberKind::Char { major, minor } => NodeKind::Char { major, minor },
        MemberKind::Block { major, minor } => NodeKind::Block { major, minor },
        MemberKind::Fifo => NodeKind::Fifo,
    };
    tree.put(&path, Node { attributes, kind })
}

/// The parts of a path from the root.
fn parts<'a>(path: &'a str, what: &'static str) -> Result<Vec<&'a str>, EntryProblem> {
    path.split('/')
        .filter(|part| !matches!(*part, "" | "."))
        .map(|part| match part {
            ".." => Err(EntryProblem::DotDot(what)),
            _ if part.len() > NAME_MAX => Err(EntryProblem::TooLong(what)),
            _ => Ok(part),
        })
        .collect()
}
