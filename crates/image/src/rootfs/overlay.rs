//! Merges a VM's image and system overlay into the tree that the guest's overlayfs shows (Linux,
//! Documentation/filesystems/overlayfs.rst).
//!
//! The agent mounts the overlay without redirects, metadata-only copies and an index, so each name's content is in
//! one layer. Disks that use these features are refused. overlayfs's own attributes are left out, except those that
//! it keeps for a nested overlayfs: the new image becomes the lower layer of an overlayfs again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::path::Path;

use mkext4::spec::Inode;
use mkext4::spec::inode::FileType;

use super::index::{MAX_BYTES, MAX_ENTRIES};
use super::tree::{Attributes, Node, NodeId, NodeKind, ROOT, Tree};
use super::xattr;
use crate::archive::EntryProblem;
use crate::error::DiskProblem;
use crate::ext4::{Ext4, ROOT_INODE};
use crate::progress;
use crate::{ImageError, Progress};

/// Prefix of overlayfs's own attributes, and of those that belong to a nested overlayfs.
const OVERLAY_PREFIX: &str = "trusted.overlay.";
const NESTED_PREFIX: &str = "trusted.overlay.overlay.";

/// Set to "y" on a directory that hides the directory below it.
const OPAQUE: &str = "trusted.overlay.opaque";

/// Attributes of overlayfs features that are not supported, and the features' names.
const UNSUPPORTED_XATTRS: [(&str, &str); 3] = [
    ("trusted.overlay.redirect", "overlayfs' redirects"),
    ("trusted.overlay.metacopy", "overlayfs' metadata-only copies"),
    ("trusted.overlay.whiteout", "overlayfs' whiteouts in attributes"),
];

/// Directory of the upper layer on the overlay's disk.
const UPPER: &str = "upper";

/// Name in the root directory where the work disk is mounted.
const HOME_NAME: &str = "root";

/// Indexes into the list of disks.
const BASE: usize = 0;
const OVERLAY: usize = 1;
/// The work disk, if it becomes `/root`.
const HOME: usize = 2;

/// The disk and inode number of a file.
type InodeRef = (usize, u32);

/// A file system, and the file that contains it.
#[derive(Debug)]
pub(super) struct Disk<'a> {
    pub(super) path: &'a Path,
    pub(super) files: Ext4<'a>,
}

impl<'a> Disk<'a> {
    pub(super) fn open(path: &'a Path, file: &'a File) -> Result<Self, ImageError> {
        let files = Ext4::open(file).map_err(|source| ImageError::Disk { path: path.to_owned(), source })?;
        Ok(Self { path, files })
    }
}

/// How to treat a file that identifies a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Identity {
    /// Left out. The guest creates a new one.
    Omitted,
    /// Kept, but empty, which shows the guest that it has to be filled.
    Emptied,
}

/// Returns how to treat `path` if two VMs of one image must not share it.
fn identity(path: &str) -> Option<Identity> {
    match path {
        // systemd takes a missing file for a first boot, which resets what was enabled and disabled (machine-id(5)).
        "/etc/machine-id" => Some(Identity::Emptied),
        "/var/lib/dbus/machine-id" | "/var/lib/systemd/random-seed" => Some(Identity::Omitted),
        _ => {
            let key = path.strip_prefix("/etc/ssh/ssh_host_")?;
            let key = key.strip_suffix(".pub").unwrap_or(key);
            (key.ends_with("_key") && !key.contains('/')).then_some(Identity::Omitted)
        }
    }
}

/// Merges the disks: the image's, the overlay's if any, and the work disk if it becomes `/root`.
pub(super) fn merged(disks: &[Disk<'_>], progress: &dyn Progress) -> Result<Tree, ImageError> {
    let mut overlay = Overlay {
        disks,
        progress,
        tree: Tree::new(),
        links: HashMap::new(),
        seen: HashSet::new(),
        names: 0,
        bytes: 0,
        pending: Vec::new(),
    };
    overlay.root()?;
    while let Some(dir) = overlay.pending.pop() {
        progress::check(progress)?;
        overlay.directory(&dir)?;
    }
    Ok(overlay.tree)
}

/// A directory of the tree whose entries are still to be added.
struct PendingDirectory {
    id: NodeId,
    path: String,
    /// The directories that are merged in it, uppermost first.
    layers: Vec<InodeRef>,
}

struct Overlay<'a> {
    disks: &'a [Disk<'a>],
    progress: &'a dyn Progress,
    tree: Tree,
    /// Files with several hard links.
    links: HashMap<InodeRef, NodeId>,
    /// Directories visited so far. Each has only one name.
    seen: HashSet<InodeRef>,
    names: u64,
    bytes: u64,
    pending: Vec<PendingDirectory>,
}

impl Overlay<'_> {
    fn root(&mut self) -> Result<(), ImageError> {
        let mut layers = vec![(BASE, ROOT_INODE)];
        if self.disks.len() > OVERLAY {
            let names = self.read(OVERLAY, "", |files| files.names(ROOT_INODE))?;
            // The overlay has no upper directory if the VM never booted that far.
            let upper = names.into_iter().find(|(name, _)| name == UPPER);
            layers.extend(upper.map(|(_, upper)| (OVERLAY, upper)));
            layers.reverse();
        }
        let inode = self.inode(layers[0], "/")?;
        let (attributes, _) = self.attributes(layers[0], "/", &inode)?;
        self.tree.set_root(attributes);
        self.pending.push(PendingDirectory { id: ROOT, path: String::new(), layers });
        Ok(())
    }

    fn directory(&mut self, dir: &PendingDirectory) -> Result<(), ImageError> {
        let mut names: BTreeMap<String, Vec<InodeRef>> = BTreeMap::new();
        for (disk, inode) in dir.layers.iter().copied() {
            let damaged = DiskProblem::Damaged { what: "directory", inode };
            if !self.seen.insert((disk, inode)) {
                return Err(self.refused(disk, &dir.path, damaged));
            }
            for (name, inode) in self.read(disk, &dir.path, |files| files.names(inode))? {
                let inodes = names.entry(name).or_default();
                if inodes.iter().any(|(other, _)| *other == disk) {
                    return Err(self.refused(disk, &dir.path, damaged));
                }
                inodes.push((disk, inode));
            }
        }
        if dir.id == ROOT && self.disks.len() > HOME {
            names.insert(HOME_NAME.to_owned(), vec![(HOME, ROOT_INODE)]);
        }
        for (name, inodes) in names {
            self.put(dir.id, &name, &format!("{}/{name}", dir.path), &inodes)?;
            self.names += 1;
            let too_much = |what, limit| self.refused(inodes[0].0, "", DiskProblem::TooMuch { what, limit });
            if self.names > MAX_ENTRIES {
                return Err(too_much("names", MAX_ENTRIES));
            }
            if self.bytes > MAX_BYTES {
                return Err(too_much("bytes", MAX_BYTES));
            }
        }
        Ok(())
    }

    /// Adds the merged entry of `inodes`, uppermost first, to directory `parent`. A whiteout adds nothing.
    fn put(&mut self, parent: NodeId, name: &str, path: &str, inodes: &[InodeRef]) -> Result<(), ImageError> {
        let top = inodes[0];
        if let Some(node) = self.links.get(&top) {
            self.tree.link(parent, name, *node);
            return Ok(());
        }
        let inode = self.inode(top, path)?;
        if inode.file_type() != FileType::Dir {
            let Some(kind) = self.kind(top, &inode, path)? else { return Ok(()) };
            let (attributes, _) = self.attributes(top, path, &inode)?;
            let id = self.tree.add(Node { attributes, kind });
            self.tree.link(parent, name, id);
            if inode.links_count > 1 {
                self.links.insert(top, id);
            }
            return Ok(());
        }
        let (attributes, opaque) = self.attributes(top, path, &inode)?;
        let id = self.tree.create_directory(parent, name, attributes);
        let id = id.map_err(|problem| self.refused_entry(top.0, path, problem))?;
        let mut layers = vec![top];
        if let Some(below) = inodes.get(1).filter(|_| !opaque)
            && self.inode(*below, path)?.file_type() == FileType::Dir
        {
            layers.push(*below);
        }
        self.pending.push(PendingDirectory { id, path: path.to_owned(), layers });
        Ok(())
    }

    /// Returns the kind of a file that is not a directory. `None` leaves it out of the image.
    fn kind(
        &mut self,
        inode_ref: InodeRef,
        inode: &Inode,
        path: &str,
    ) -> Result<Option<NodeKind>, ImageError> {
        let (disk, number) = inode_ref;
        Ok(Some(match (inode.file_type(), inode.dev_numbers()) {
            // A whiteout.
            (FileType::CharDev, Some((0, 0))) if disk != HOME => return Ok(None),
            (FileType::CharDev, Some((major, minor))) => NodeKind::Char { major, minor },
            (FileType::BlockDev, Some((major, minor))) => NodeKind::Block { major, minor },
            (FileType::Fifo, _) => NodeKind::Fifo,
            (FileType::Symlink, _) => {
                NodeKind::Symlink(self.read(disk, path, |files| files.target(number, inode))?)
            }
            (FileType::Regular, _) => match identity(path) {
                Some(Identity::Omitted) => {
                    self.progress.log(&format!("left out {path}: every VM creates its own"));
                    return Ok(None);
                }
                Some(Identity::Emptied) => NodeKind::File { size: 0, archive: 0, extents: Vec::new() },
                None => {
                    let extents = self.read(disk, path, |files| files.extents(number, inode))?;
                    self.bytes = self.bytes.saturating_add(inode.size);
                    // There are at most three disks.
                    NodeKind::File { size: inode.size, archive: disk as u16, extents }
                }
            },
            // A socket is useless without the process that created it.
            _ => return Ok(None),
        }))
    }

    fn inode(&self, (disk, number): InodeRef, path: &str) -> Result<Inode, ImageError> {
        self.read(disk, path, |files| files.inode(number))
    }

    /// Returns the inode's attributes, and whether the directory is opaque.
    fn attributes(
        &self,
        (disk, number): InodeRef,
        path: &str,
        inode: &Inode,
    ) -> Result<(Attributes, bool), ImageError> {
        let mut xattrs = self.read(disk, path, |files| files.attributes(number, inode))?;
        let unsupported =
            UNSUPPORTED_XATTRS.iter().find(|(name, _)| xattrs.iter().any(|(other, _)| other == name));
        if let Some((_, what)) = unsupported.filter(|_| disk == OVERLAY) {
            return Err(self.refused(disk, path, DiskProblem::Unsupported(what)));
        }
        let opaque = xattrs.iter().any(|(name, value)| name == OPAQUE && value == b"y");
        xattrs.retain(|(name, _)| !name.starts_with(OVERLAY_PREFIX) || name.starts_with(NESTED_PREFIX));
        let (seconds, nanoseconds) = Inode::timestamp(inode.mtime, inode.mtime_extra);
        let attributes = Attributes {
            mode: inode.mode & 0o7777,
            uid: inode.uid,
            gid: inode.gid,
            mtime: (seconds, nanoseconds.min(999_999_999)),
            xattrs: xattr::fitting(xattrs).map_err(|problem| self.refused_entry(disk, path, problem))?,
        };
        Ok((attributes, opaque))
    }

    /// Queries a disk about `path`.
    fn read<T>(
        &self,
        disk: usize,
        path: &str,
        read: impl FnOnce(&Ext4<'_>) -> Result<T, DiskProblem>,
    ) -> Result<T, ImageError> {
        read(&self.disks[disk].files).map_err(|problem| self.refused(disk, path, problem))
    }

    fn refused_entry(&self, disk: usize, path: &str, problem: EntryProblem) -> ImageError {
        self.refused(disk, path, DiskProblem::Entry { path: String::new(), problem })
    }

    /// Returns the error for a problem with `path`, or with an entry in it.
    fn refused(&self, disk: usize, path: &str, problem: DiskProblem) -> ImageError {
        let source = match problem {
            DiskProblem::Entry { path: name, problem } => {
                let path = [path, &name].join(if name.is_empty() { "" } else { "/" });
                DiskProblem::Entry { path, problem }
            }
            other => other,
        };
        ImageError::Disk { path: self.disks[disk].path.to_owned(), source }
    }
}
