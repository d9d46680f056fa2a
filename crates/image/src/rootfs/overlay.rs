//! What a VM's root shows: its image with its system overlay over it, put together as the guest's overlayfs does (Linux,
//! Documentation/filesystems/overlayfs.rst).
//!
//! The agent mounts it without redirects, metadata-only copies and an index, so that a name's content is all in one
//! layer; what says otherwise is refused. Attributes of overlayfs' own are left out, but for those that it keeps for an
//! overlayfs inside it: the image will lie under an overlayfs again.

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

/// Before the names of overlayfs' own attributes, and then of those inside it.
const OWN: &str = "trusted.overlay.";
const INSIDE: &str = "trusted.overlay.overlay.";

/// On a folder of which nothing below is to be seen: "y".
const OPAQUE: &str = "trusted.overlay.opaque";

/// Ways of overlayfs to put a name's content elsewhere or to hide it, that are not in use.
const FOREIGN: [(&str, &str); 3] = [
    ("trusted.overlay.redirect", "overlayfs' redirects"),
    ("trusted.overlay.metacopy", "overlayfs' metadata-only copies"),
    ("trusted.overlay.whiteout", "overlayfs' whiteouts in attributes"),
];

/// Where on the overlay's disk the upper layer is.
const UPPER: &str = "upper";

/// The name in the root at which the work disk is.
const HOME_NAME: &str = "root";

/// The disks, by their place in the list of them.
const BASE: usize = 0;
const OVERLAY: usize = 1;
/// The work disk, if it is to be `/root`.
const HOME: usize = 2;

/// Where something is found: on which disk, and its inode there.
type Found = (usize, u32);

/// A file system, and the file that it is in.
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

/// What becomes of a name that tells one machine from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Identity {
    /// It goes, and is made anew where it is missing.
    Left,
    /// It stays without content, which is how it is known to be made anew.
    Emptied,
}

/// What of a machine is its own: two VMs of one image must not share it.
fn identity(path: &str) -> Option<Identity> {
    match path {
        // Missing, it would be a first boot to systemd, which undoes what was enabled and disabled (machine-id(5)).
        "/etc/machine-id" => Some(Identity::Emptied),
        "/var/lib/dbus/machine-id" | "/var/lib/systemd/random-seed" => Some(Identity::Left),
        _ => {
            let key = path.strip_prefix("/etc/ssh/ssh_host_")?;
            let key = key.strip_suffix(".pub").unwrap_or(key);
            (key.ends_with("_key") && !key.contains('/')).then_some(Identity::Left)
        }
    }
}

/// Puts the disks together: the image's, the overlay's if there is one, and the work disk if it is to be `/root`.
pub(super) fn merged(disks: &[Disk<'_>], progress: &dyn Progress) -> Result<Tree, ImageError> {
    let mut overlay = Overlay {
        disks,
        progress,
        tree: Tree::new(),
        links: HashMap::new(),
        seen: HashSet::new(),
        names: 0,
        bytes: 0,
        left: Vec::new(),
    };
    overlay.root()?;
    while let Some(place) = overlay.left.pop() {
        progress::check(progress)?;
        overlay.folder(&place)?;
    }
    Ok(overlay.tree)
}

/// A folder of the tree whose names are still to be put into it.
struct Place {
    id: NodeId,
    path: String,
    /// The folders that it shows, the uppermost first.
    shows: Vec<Found>,
}

struct Overlay<'a> {
    disks: &'a [Disk<'a>],
    progress: &'a dyn Progress,
    tree: Tree,
    /// Files that have several names.
    links: HashMap<Found, NodeId>,
    /// Folders that have been come to: each has one name.
    seen: HashSet<Found>,
    names: u64,
    bytes: u64,
    left: Vec<Place>,
}

impl Overlay<'_> {
    fn root(&mut self) -> Result<(), ImageError> {
        let mut shows = vec![(BASE, ROOT_INODE)];
        if self.disks.len() > OVERLAY {
            let names = self.ask(OVERLAY, "", |files| files.names(ROOT_INODE))?;
            // A VM that never came so far has no upper folder.
            let upper = names.into_iter().find(|(name, _)| name == UPPER);
            shows.extend(upper.map(|(_, upper)| (OVERLAY, upper)));
            shows.reverse();
        }
        let inode = self.inode(shows[0], "/")?;
        let (attributes, _) = self.attributes(shows[0], "/", &inode)?;
        self.tree.set_root(attributes);
        self.left.push(Place { id: ROOT, path: String::new(), shows });
        Ok(())
    }

    fn folder(&mut self, place: &Place) -> Result<(), ImageError> {
        let mut names: BTreeMap<String, Vec<Found>> = BTreeMap::new();
        for (disk, inode) in place.shows.iter().copied() {
            let damaged = DiskProblem::Damaged { what: "folder", inode };
            if !self.seen.insert((disk, inode)) {
                return Err(self.refused(disk, &place.path, damaged));
            }
            for (name, inode) in self.ask(disk, &place.path, |files| files.names(inode))? {
                let found = names.entry(name).or_default();
                if found.iter().any(|(other, _)| *other == disk) {
                    return Err(self.refused(disk, &place.path, damaged));
                }
                found.push((disk, inode));
            }
        }
        if place.id == ROOT && self.disks.len() > HOME {
            names.insert(HOME_NAME.to_owned(), vec![(HOME, ROOT_INODE)]);
        }
        for (name, found) in names {
            self.put(place.id, &name, &format!("{}/{name}", place.path), &found)?;
            self.names += 1;
            let over = |what, limit| self.refused(found[0].0, "", DiskProblem::TooMuch { what, limit });
            if self.names > MAX_ENTRIES {
                return Err(over("names", MAX_ENTRIES));
            }
            if self.bytes > MAX_BYTES {
                return Err(over("bytes", MAX_BYTES));
            }
        }
        Ok(())
    }

    /// Puts what `found` shows, the uppermost first, into folder `parent`, if anything.
    fn put(&mut self, parent: NodeId, name: &str, path: &str, found: &[Found]) -> Result<(), ImageError> {
        let top = found[0];
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
        let id = self.tree.new_folder(parent, name, attributes);
        let id = id.map_err(|problem| self.refused_entry(top.0, path, problem))?;
        let mut shows = vec![top];
        if let Some(below) = found.get(1).filter(|_| !opaque)
            && self.inode(*below, path)?.file_type() == FileType::Dir
        {
            shows.push(*below);
        }
        self.left.push(Place { id, path: path.to_owned(), shows });
        Ok(())
    }

    /// What anything but a folder is in the image; `None` when it is nothing there.
    fn kind(&mut self, found: Found, inode: &Inode, path: &str) -> Result<Option<NodeKind>, ImageError> {
        let (disk, number) = found;
        Ok(Some(match (inode.file_type(), inode.dev_numbers()) {
            // A whiteout.
            (FileType::CharDev, Some((0, 0))) if disk != HOME => return Ok(None),
            (FileType::CharDev, Some((major, minor))) => NodeKind::Char { major, minor },
            (FileType::BlockDev, Some((major, minor))) => NodeKind::Block { major, minor },
            (FileType::Fifo, _) => NodeKind::Fifo,
            (FileType::Symlink, _) => {
                NodeKind::Symlink(self.ask(disk, path, |files| files.target(number, inode))?)
            }
            (FileType::Regular, _) => match identity(path) {
                Some(Identity::Left) => {
                    self.progress.log(&format!("left out {path}: each VM is to have its own"));
                    return Ok(None);
                }
                Some(Identity::Emptied) => NodeKind::File { size: 0, archive: 0, extents: Vec::new() },
                None => {
                    let extents = self.ask(disk, path, |files| files.extents(number, inode))?;
                    self.bytes = self.bytes.saturating_add(inode.size);
                    // There are three at most.
                    NodeKind::File { size: inode.size, archive: disk as u16, extents }
                }
            },
            // A socket without the process that made it is nothing.
            _ => return Ok(None),
        }))
    }

    fn inode(&self, (disk, number): Found, path: &str) -> Result<Inode, ImageError> {
        self.ask(disk, path, |files| files.inode(number))
    }

    /// What the inode says, and whether nothing below its folder is to be seen.
    fn attributes(
        &self,
        (disk, number): Found,
        path: &str,
        inode: &Inode,
    ) -> Result<(Attributes, bool), ImageError> {
        let mut found = self.ask(disk, path, |files| files.attributes(number, inode))?;
        let foreign = FOREIGN.iter().find(|(name, _)| found.iter().any(|(found, _)| found == name));
        if let Some((_, what)) = foreign.filter(|_| disk == OVERLAY) {
            return Err(self.refused(disk, path, DiskProblem::Unsupported(what)));
        }
        let opaque = found.iter().any(|(name, value)| name == OPAQUE && value == b"y");
        found.retain(|(name, _)| !name.starts_with(OWN) || name.starts_with(INSIDE));
        let (seconds, nanoseconds) = Inode::timestamp(inode.mtime, inode.mtime_extra);
        let attributes = Attributes {
            mode: inode.mode & 0o7777,
            uid: inode.uid,
            gid: inode.gid,
            mtime: (seconds, nanoseconds.min(999_999_999)),
            xattrs: xattr::fitting(found).map_err(|problem| self.refused_entry(disk, path, problem))?,
        };
        Ok((attributes, opaque))
    }

    /// Asks a disk about what is at `path`.
    fn ask<T>(
        &self,
        disk: usize,
        path: &str,
        question: impl FnOnce(&Ext4<'_>) -> Result<T, DiskProblem>,
    ) -> Result<T, ImageError> {
        question(&self.disks[disk].files).map_err(|problem| self.refused(disk, path, problem))
    }

    fn refused_entry(&self, disk: usize, path: &str, problem: EntryProblem) -> ImageError {
        self.refused(disk, path, DiskProblem::Entry { path: String::new(), problem })
    }

    /// A problem with `path`, or with an entry in it.
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
