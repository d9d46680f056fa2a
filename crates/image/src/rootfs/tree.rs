//! The tree of an archive's entries as a Linux kernel would see it, in memory only.

use std::collections::BTreeMap;

use crate::archive::{EntryProblem, Extent};

/// Index of a node in its tree.
pub(super) type NodeId = u32;

/// The root directory.
pub(super) const ROOT: NodeId = 0;

/// Maximum number of symlinks followed for one path, as in Linux.
const MAX_SYMLINKS: u32 = 40;

/// Maximum depth of a directory. A path of 4096 bytes has at most 2048 components.
const MAX_DEPTH: u32 = 1024;

/// Attributes of a node's inode.
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
    /// Returns the attributes of a directory that the archive does not list.
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
    Directory(Directory),
    File {
        /// Size in bytes, holes included.
        size: u64,
        /// Index of the archive that holds the bytes.
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
pub(super) struct Directory {
    pub(super) children: BTreeMap<Box<str>, NodeId>,
    parent: NodeId,
    depth: u32,
}

/// All entries. Replaced ones stay in `nodes`, but are unreachable.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
}

impl Tree {
    pub(super) fn new() -> Self {
        let root = Directory { children: BTreeMap::new(), parent: ROOT, depth: 0 };
        Self { nodes: vec![Node { attributes: Attributes::implied(), kind: NodeKind::Directory(root) }] }
    }

    /// Sets the attributes of the root directory.
    pub(super) fn set_root(&mut self, attributes: Attributes) {
        self.nodes[ROOT as usize].attributes = attributes;
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id as usize]
    }

    /// Returns the number of nodes ever created, with implied directories and replaced nodes.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn directory(&self, id: NodeId) -> Option<&Directory> {
        match &self.node(id).kind {
            NodeKind::Directory(dir) => Some(dir),
            _ => None,
        }
    }

    fn child(&self, dir: NodeId, name: &str) -> Option<NodeId> {
        self.directory(dir)?.children.get(name).copied()
    }

    /// Adds a directory at `path`. An existing directory keeps its content.
    pub(super) fn put_directory(
        &mut self,
        path: &[&str],
        attributes: Attributes,
    ) -> Result<(), EntryProblem> {
        let Some((name, parents)) = path.split_last() else {
            self.set_root(attributes);
            return Ok(());
        };
        let parent = self.parent(parents)?;
        match self.child(parent, name) {
            Some(existing) if self.directory(existing).is_some() => {
                self.nodes[existing as usize].attributes = attributes
            }
            _ => {
                self.create_directory(parent, name, attributes)?;
            }
        }
        Ok(())
    }

    /// Adds anything but a directory at `path`, replacing what is there.
    pub(super) fn put(&mut self, path: &[&str], node: Node) -> Result<(), EntryProblem> {
        let (name, parents) = path.split_last().ok_or(EntryProblem::EmptyName("its name"))?;
        let parent = self.parent(parents)?;
        let id = self.add(node);
        self.link(parent, name, id);
        Ok(())
    }

    /// Adds a hard link at `path` to `target`.
    pub(super) fn put_link(&mut self, path: &[&str], target: &[&str]) -> Result<(), EntryProblem> {
        let target_path = || target.join("/");
        let (last, parents) =
            target.split_last().ok_or_else(|| EntryProblem::LinkToDirectory("/".to_owned()))?;
        let dir = self.lookup(&parents.join("/"));
        let target_node = dir.and_then(|dir| self.child(dir, last));
        let target_node = target_node.ok_or_else(|| EntryProblem::LinkTarget(target_path()))?;
        if self.directory(target_node).is_some() {
            return Err(EntryProblem::LinkToDirectory(target_path()));
        }
        let (name, parents) = path.split_last().ok_or(EntryProblem::EmptyName("its name"))?;
        let parent = self.parent(parents)?;
        self.link(parent, name, target_node);
        Ok(())
    }

    /// Removes `name` and everything below it from directory `path`, if it exists.
    pub(super) fn remove(&mut self, path: &[&str], name: &str) {
        if let Some(dir) = self.lookup(&path.join("/"))
            && let NodeKind::Directory(dir) = &mut self.nodes[dir as usize].kind
        {
            dir.children.remove(name);
        }
    }

    /// Removes everything in directory `path`, if it exists.
    pub(super) fn clear(&mut self, path: &[&str]) {
        if let Some(dir) = self.lookup(&path.join("/"))
            && let NodeKind::Directory(dir) = &mut self.nodes[dir as usize].kind
        {
            dir.children.clear();
        }
    }

    /// Resolves `path` from the root, following symlinks that stay in it.
    pub(super) fn lookup(&self, path: &str) -> Option<NodeId> {
        Some(self.follow(ROOT, path)?.0)
    }

    /// Like `lookup`, and also returns the name of the entry at the end of all links.
    pub(super) fn lookup_named<'a>(&'a self, path: &'a str) -> Option<(NodeId, &'a str)> {
        self.follow(ROOT, path)
    }

    /// Returns the directory `path`, creating missing components.
    fn parent(&mut self, path: &[&str]) -> Result<NodeId, EntryProblem> {
        let mut at = ROOT;
        for (i, name) in path.iter().enumerate() {
            let parent_path = || path[..=i].join("/");
            at = match self.child(at, name) {
                None => self.create_directory(at, name, Attributes::implied())?,
                Some(child) => match &self.node(child).kind {
                    NodeKind::Directory(_) => child,
                    NodeKind::Symlink(target) => self
                        .follow(at, target)
                        .map(|(target_node, _)| target_node)
                        .filter(|target_node| self.directory(*target_node).is_some())
                        .ok_or_else(|| EntryProblem::ParentLink(parent_path()))?,
                    _ => return Err(EntryProblem::ParentNotDirectory(parent_path())),
                },
            };
        }
        Ok(at)
    }

    /// Resolves `path` in directory `at`, and returns the node and its name. A path that leaves the root has no
    /// result.
    fn follow<'a>(&'a self, mut at: NodeId, path: &'a str) -> Option<(NodeId, &'a str)> {
        let mut links = 0;
        let mut last = "";
        // The paths still to walk, each without the components already done; the innermost link's is last.
        let mut pending = vec![path];
        while let Some(path) = pending.pop() {
            if path.starts_with('/') {
                at = ROOT;
            }
            let path = path.trim_start_matches('/');
            let (name, rest) = path.split_once('/').unwrap_or((path, ""));
            let rest = rest.trim_start_matches('/');
            if !rest.is_empty() {
                pending.push(rest);
            }
            match name {
                "" | "." => {}
                ".." if at == ROOT => return None,
                ".." => at = self.directory(at)?.parent,
                _ => {
                    let child = self.child(at, name)?;
                    match &self.node(child).kind {
                        NodeKind::Symlink(target) => {
                            links += 1;
                            if links > MAX_SYMLINKS {
                                return None;
                            }
                            pending.push(target);
                        }
                        _ => (at, last) = (child, name),
                    }
                }
            }
        }
        Some((at, last))
    }

    /// Creates directory `name` in directory `parent`, replacing what is there.
    pub(super) fn create_directory(
        &mut self,
        parent: NodeId,
        name: &str,
        attributes: Attributes,
    ) -> Result<NodeId, EntryProblem> {
        let depth = self.directory(parent).map_or(0, |dir| dir.depth) + 1;
        if depth > MAX_DEPTH {
            return Err(EntryProblem::TooDeep(MAX_DEPTH));
        }
        let kind = NodeKind::Directory(Directory { children: BTreeMap::new(), parent, depth });
        let id = self.add(Node { attributes, kind });
        self.link(parent, name, id);
        Ok(id)
    }

    /// Adds a node that has no name yet.
    pub(super) fn add(&mut self, node: Node) -> NodeId {
        // The limit on nodes is far below 32 bits and checked after every entry.
        let id = NodeId::try_from(self.nodes.len()).unwrap_or(NodeId::MAX);
        self.nodes.push(node);
        id
    }

    /// Gives node `id` a name in directory `parent`.
    pub(super) fn link(&mut self, parent: NodeId, name: &str, id: NodeId) {
        if let NodeKind::Directory(dir) = &mut self.nodes[parent as usize].kind {
            dir.children.insert(name.into(), id);
        }
    }
}
