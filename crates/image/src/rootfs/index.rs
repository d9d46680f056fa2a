//! Merges archives' members into a tree: checks names, resolves links, enforces limits, applies whiteouts.

use std::io::{Read, Seek};

use super::tree::{Attributes, Node, NodeKind, Tree};
use super::xattr;
use crate::archive::{ArchiveError, EntryProblem, Member, MemberKind, NAME_MAX, TarReader};
use crate::progress;
use crate::{ImageError, Progress};

/// Maximum number of entries of all archives of one image, and of nodes of a tree. It limits memory to 2 GB. A large
/// development system has half a million entries.
pub(super) const MAX_ENTRIES: u64 = 1 << 20;

/// Maximum size of all files together, in bytes, holes included, so that sums fit into 64 bits.
pub(super) const MAX_BYTES: u64 = 1 << 50;

/// Prefix of a whiteout: the rest is the name that the layer deletes (OCI image specification, "Whiteouts").
const WHITEOUT_PREFIX: &str = ".wh.";

/// Name that hides all lower content of its directory (there, "Opaque Whiteout").
const OPAQUE: &str = ".wh..wh..opq";

/// Prefix of AUFS's own files, the origin of whiteouts. They have no meaning here.
const AUFS_PREFIX: &str = ".wh..wh.";

/// The members of one archive, not merged yet.
#[derive(Debug)]
pub(super) struct Index {
    members: Vec<Member>,
}

impl Index {
    /// Reads the headers of an archive.
    pub(super) fn of(archive: impl Read + Seek, progress: &dyn Progress) -> Result<Self, ImageError> {
        let mut tar = TarReader::seekable(archive).map_err(ImageError::Archive)?;
        let mut members = Vec::new();
        while let Some(member) = tar.next().map_err(ImageError::Archive)? {
            progress::check(progress)?;
            members.push(member);
            if members.len() as u64 > MAX_ENTRIES {
                return Err(too_much("entries", MAX_ENTRIES));
            }
        }
        Ok(Self { members })
    }
}

/// A tree into which archives are merged, one on top of another.
#[derive(Debug)]
pub(super) struct Merge {
    tree: Tree,
    bytes: u64,
    archives: u16,
}

impl Merge {
    pub(super) fn new() -> Self {
        Self { tree: Tree::new(), bytes: 0, archives: 0 }
    }

    /// Merges a whole archive. Whiteouts count as ordinary files.
    pub(super) fn archive(&mut self, index: Index) -> Result<(), ImageError> {
        let empty = index.members.is_empty();
        for member in index.members {
            self.put(member)?;
        }
        self.archives += 1;
        if empty { Err(ImageError::Archive(ArchiveError::Empty)) } else { Ok(()) }
    }

    /// Merges a layer. Its whiteouts affect only the layers below, wherever they are in the archive.
    pub(super) fn layer(&mut self, index: Index) -> Result<(), ImageError> {
        let mut rest = Vec::with_capacity(index.members.len());
        for member in index.members {
            match apply_whiteout(&mut self.tree, &member.path) {
                Ok(true) => {}
                Ok(false) => rest.push(member),
                Err(problem) => return Err(refused(member.path, problem)),
            }
        }
        for member in rest {
            self.put(member)?;
        }
        self.archives += 1;
        Ok(())
    }

    pub(super) fn tree(self) -> Tree {
        self.tree
    }

    fn put(&mut self, member: Member) -> Result<(), ImageError> {
        if let MemberKind::File { size, .. } = &member.kind {
            self.bytes = self.bytes.saturating_add(*size);
        }
        let path = member.path.clone();
        put(&mut self.tree, member, self.archives).map_err(|problem| refused(path, problem))?;
        if self.tree.len() as u64 > MAX_ENTRIES {
            return Err(too_much("entries", MAX_ENTRIES));
        }
        if self.bytes > MAX_BYTES {
            return Err(too_much("bytes", MAX_BYTES));
        }
        Ok(())
    }
}

fn refused(entry: String, problem: EntryProblem) -> ImageError {
    ImageError::Archive(ArchiveError::Entry { entry, problem })
}

fn too_much(what: &'static str, limit: u64) -> ImageError {
    ImageError::Archive(ArchiveError::TooMuch { what, limit })
}

/// Applies `path` if it is a whiteout. Returns false if it is not.
fn apply_whiteout(tree: &mut Tree, path: &str) -> Result<bool, EntryProblem> {
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let Some(hidden) = name.strip_prefix(WHITEOUT_PREFIX) else { return Ok(false) };
    let path = parts(path, "its name")?;
    let Some((_, dir)) = path.split_last() else { return Ok(false) };
    match hidden {
        _ if name == OPAQUE => tree.clear(dir),
        _ if name.starts_with(AUFS_PREFIX) => {}
        "" | "." | ".." => return Err(EntryProblem::Whiteout),
        hidden => tree.remove(dir, hidden),
    }
    Ok(true)
}

fn put(tree: &mut Tree, member: Member, archive: u16) -> Result<(), EntryProblem> {
    let path = parts(&member.path, "its name")?;
    let attributes = Attributes {
        mode: member.mode,
        uid: member.uid,
        gid: member.gid,
        mtime: member.mtime,
        xattrs: xattr::stored(member.xattrs)?,
    };
    let kind = match member.kind {
        MemberKind::Directory => return tree.put_directory(&path, attributes),
        MemberKind::HardLink(target) => return tree.put_link(&path, &parts(&target, "its target")?),
        MemberKind::File { size, extents } => NodeKind::File { size, archive, extents },
        MemberKind::Symlink(target) => NodeKind::Symlink(target),
        MemberKind::Char { major, minor } => NodeKind::Char { major, minor },
        MemberKind::Block { major, minor } => NodeKind::Block { major, minor },
        MemberKind::Fifo => NodeKind::Fifo,
    };
    tree.put(&path, Node { attributes, kind })
}

/// Splits a path into its components.
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
