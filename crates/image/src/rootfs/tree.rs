//! The tree of an archive's entries as a Linux kernel would see it, kept in memory only.

use std::collections::BTreeMap;

use crate::archive::{EntryProblem, Extent};

/// Index of a node in its tree.
pub(super) type NodeId = u32;

/// The root folder.
pub(super) const ROOT: NodeId = 0;

/// Most symlinks followed for one path, as in Linux.
const MAX_SYMLINKS: u32 = 40;

/// Deepest folder; a path of 4096 bytes has at most 2048 parts.
const MAX_DEPTH: u32 = 1024;

/// What the inode of a node says.
#[derive(Debug, Clone)]
pub(super) struct Attributes {
    /// Permission bits.
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds and nanoseconds since the epoch.
    pub(super) mtime: (i64, u32),
    pub(super) xattrs: Vec<(String, Vec<u8>)>,
}

impl Attributes {
    /// Of a folder that the archive does not name.
    fn implied() -> Self {
        Self { mode: 0o755, uid: 0, gid: 0, mtime: (0, 0), xattrs: Vec::new() }
    }
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) attributes: Attributes,
    pub(super) kind: NodeKind,
}

#[derive(Debug)]
pub(super) enum NodeKind {
    Folder(Folder),
    File {
        /// Bytes, holes included.
        size: u64,
        /// Which of the image's archives they are in.
        archive: u16,
        extents: Vec<Extent>,
    },
    Symlink(String),
    Char {
        major: u32,
        minor: u32,
    },
    Block {
        major: u32,
        minor: u32,
    },
    Fifo,
}

#[derive(Debug)]
pub(super) struct Folder {
    pub(super) children: BTreeMap<Box<str>, NodeId>,
    parent: NodeId,
    depth: u32,
}

/// All entries that are still in place; replaced ones stay in `nodes`, out of reach.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
}

impl Tree {
    pub(super) fn new() -> Self {
        let root = Folder { children: BTreeMap::new(), parent: ROOT, depth: 0 };
        Self { nodes: vec![Node { attributes: Attributes::implied(), kind: NodeKind::Folder(root) }] }
    }

    /// What is said of the root folder itself.
    pub(super) fn set_root(&mut self, attributes: Attributes) {
        self.nodes[ROOT as usize].attributes = attributes;
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id as usize]
    }

    /// All nodes ever made, implied folders and replaced ones included.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn folder(&self, id: NodeId) -> Option<&Folder> {
        match &self.node(id).kind {
            NodeKind::Folder(folder) => Some(folder),
            _ => None,
        }
    }

    fn child(&self, folder: NodeId, name: &str) -> Option<NodeId> {
        self.folder(folder)?.children.get(name).copied()
    }

    /// Puts a folder at `path`; one that is there already keeps its content.
    pub(super) fn put_folder(&mut self, path: &[&str], attributes: Attributes) -> Result<(), EntryProblem> {
        let Some((name, parents)) = path.split_last() else {
            self.set_root(attributes);
            return Ok(());
        };
        let parent = self.parent(parents)?;
        match self.child(parent, name) {
            Some(there) if self.folder(there).is_some() => self.nodes[there as usize].attributes = attributes,
            _ => {
                self.new_folder(parent, name, attributes)?;
            }
        }
        Ok(())
    }

    /// Puts anything but a folder at `path`, in place of what is there.
    pub(super) fn put(&mut self, path: &[&str], node: Node) -> Result<(), EntryProblem> {
        let (name, parents) = path.split_last().ok_or(EntryProblem::EmptyName("its name"))?;
        let parent = self.parent(parents)?;
        let id = self.add(node);
        self.link(parent, name, id);
        Ok(())
    }

    /// Gives what is at `target` another name.
    pub(super) fn put_link(&mut self, path: &[&str], target: &[&str]) -> Result<(), EntryProblem> {
        let shown = || target.join("/");
        let (last, parents) =
            target.split_last().ok_or_else(|| EntryProblem::LinkToFolder("/".to_owned()))?;
        let folder = self.lookup(&parents.join("/"));
        let found = folder.and_then(|folder| self.child(folder, last));
        let found = found.ok_or_else(|| EntryProblem::LinkTarget(shown()))?;
        if self.folder(found).is_some() {
            return Err(EntryProblem::LinkToFolder(shown()));
        }
        let (name, parents) = path.split_last().ok_or(EntryProblem::EmptyName("its name"))?;
        let parent = self.parent(parents)?;
        self.link(parent, name, found);
        Ok(())
    }

    /// Takes `name` out of the folder `path`, with all that is in it; nothing when it is not there.
    pub(super) fn remove(&mut self, path: &[&str], name: &str) {
        if let Some(folder) = self.lookup(&path.join("/"))
            && let NodeKind::Folder(folder) = &mut self.nodes[folder as usize].kind
        {
            folder.children.remove(name);
        }
    }

    /// Empties the folder `path`; nothing when it is not there.
    pub(super) fn clear(&mut self, path: &[&str]) {
        if let Some(folder) = self.lookup(&path.join("/"))
            && let NodeKind::Folder(folder) = &mut self.nodes[folder as usize].kind
        {
            folder.children.clear();
        }
    }

    /// What `path` leads to from the root, symlinks followed without ever leaving it.
    pub(super) fn lookup(&self, path: &str) -> Option<NodeId> {
        Some(self.follow(ROOT, path)?.0)
    }

    /// The same, with the name that it has behind all links.
    pub(super) fn lookup_named<'a>(&'a self, path: &'a str) -> Option<(NodeId, &'a str)> {
        self.follow(ROOT, path)
    }

    /// The folder `path`, made where it is missing.
    fn parent(&mut self, path: &[&str]) -> Result<NodeId, EntryProblem> {
        let mut at = ROOT;
        for (i, name) in path.iter().enumerate() {
            let shown = || path[..=i].join("/");
            at = match self.child(at, name) {
                None => self.new_folder(at, name, Attributes::implied())?,
                Some(child) => match &self.node(child).kind {
                    NodeKind::Folder(_) => child,
                    NodeKind::Symlink(target) => self
                        .follow(at, target)
                        .map(|(found, _)| found)
                        .filter(|found| self.folder(*found).is_some())
                        .ok_or_else(|| EntryProblem::ParentLink(shown()))?,
                    _ => return Err(EntryProblem::ParentNotFolder(shown())),
                },
            };
        }
        Ok(at)
    }

    /// What `path`, read in folder `at`, leads to, and its name there. Leaving the root is nowhere, not the root again.
    fn follow<'a>(&'a self, mut at: NodeId, path: &'a str) -> Option<(NodeId, &'a str)> {
        let mut links = 0;
        let mut last = "";
        // What is left to walk: of each path the rest of it, the innermost link's last.
        let mut left = vec![path];
        while let Some(path) = left.pop() {
            if path.starts_with('/') {
                at = ROOT;
            }
            let path = path.trim_start_matches('/');
            let (name, rest) = path.split_once('/').unwrap_or((path, ""));
            let rest = rest.trim_start_matches('/');
            if !rest.is_empty() {
                left.push(rest);
            }
            match name {
                "" | "." => {}
                ".." if at == ROOT => return None,
                ".." => at = self.folder(at)?.parent,
                _ => {
                    let child = self.child(at, name)?;
                    match &self.node(child).kind {
                        NodeKind::Symlink(target) => {
                            links += 1;
                            if links > MAX_SYMLINKS {
                                return None;
                            }
                            left.push(target);
                        }
                        _ => (at, last) = (child, name),
                    }
                }
            }
        }
        Some((at, last))
    }

    /// A new folder `name` in folder `parent`, in place of what is there.
    pub(super) fn new_folder(
        &mut self,
        parent: NodeId,
        name: &str,
        attributes: Attributes,
    ) -> Result<NodeId, EntryProblem> {
        let depth = self.folder(parent).map_or(0, |folder| folder.depth) + 1;
        if depth > MAX_DEPTH {
            return Err(EntryProblem::TooDeep(MAX_DEPTH));
        }
        let kind = NodeKind::Folder(Folder { children: BTreeMap::new(), parent, depth });
        let id = self.add(Node { attributes, kind });
        self.link(parent, name, id);
        Ok(id)
    }

    /// A node that has no name yet.
    pub(super) fn add(&mut self, node: Node) -> NodeId {
        // The limit on nodes is far below 32 bits and checked after every entry.
        let id = NodeId::try_from(self.nodes.len()).unwrap_or(NodeId::MAX);
        self.nodes.push(node);
        id
    }

    /// Gives node `id` a name in folder `parent`.
    pub(super) fn link(&mut self, parent: NodeId, name: &str, id: NodeId) {
        if let NodeKind::Folder(folder) = &mut self.nodes[parent as usize].kind {
            folder.children.insert(name.into(), id);
        }
    }
}
