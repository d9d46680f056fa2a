//! Reads an ext4 file system from a file, without mounting it.
//!
//! A VM's guest wrote the file system, so nothing in it is trusted: every number is checked before use, and
//! structures that could take forever to read (extent trees, directories) have a total limit. The on-disk structures
//! are mkext4's; the traversal is ours, because mkext4's reader is meant for tests.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use mkext4::spec::inode::FileType;
use mkext4::spec::{
    DirentIter, Extent as Leaf, ExtentHeader, ExtentIdx, GroupDesc, Inode, Superblock, XattrBlockView,
    extent, ibody_entries, incompat, ro_compat,
};

use crate::archive::{EntryProblem, Extent, MAX_FILE, NAME_MAX};
use crate::error::DiskProblem;

/// Inode number of the root directory.
pub(crate) const ROOT_INODE: u32 = 2;

/// Directory for files recovered by e2fsck; not part of the content.
const LOST_FOUND: &[u8] = b"lost+found";

/// Feature flag: group descriptors lie in their own groups. A file system that was grown in use has it.
const META_BG: u32 = 0x10;

/// Feature flag: directories may have a third level of hashes. They are read in order like all others.
const LARGEDIR: u32 = 0x4000;

/// Supported incompatible features.
const SUPPORTED_FEATURES: u32 = incompat::READER | META_BG | LARGEDIR;

/// State of a file system that was unmounted in order and in which no kernel found errors.
const CLEAN: u16 = 1;

/// Maximum block size, as a shift of 1024 bytes: 4096 bytes, long the limit of x86 kernels.
const MAX_BLOCK_SHIFT: u32 = 2;

/// Maximum number of block groups: 128 TiB.
const MAX_GROUPS: u64 = 1 << 20;

/// Maximum number of extents of all files together. A disk used for years has some for each file.
const MAX_EXTENTS: u64 = 4 << 20;

/// Maximum number of blocks of all directories together. A million names fill a twentieth of them.
const MAX_DIRECTORY_BLOCKS: u64 = 1 << 20;

/// Maximum depth of an extent tree, as in Linux.
const MAX_DEPTH: u16 = 5;

/// Maximum length of a symlink's target.
const MAX_TARGET: u64 = 4095;

type Result<T> = std::result::Result<T, DiskProblem>;

/// An open file system.
#[derive(Debug)]
pub(crate) struct Ext4<'a> {
    file: &'a File,
    block_size: u64,
    blocks: u64,
    inodes: u32,
    inodes_per_group: u32,
    inode_size: u16,
    /// Start of each group's inode table, in blocks.
    tables: Vec<u64>,
    extents: Cell<u64>,
    directory_blocks: Cell<u64>,
}

/// Reads and checks the superblock, at byte 1024, and returns it with the file system's size.
fn superblock(file: &File) -> Result<(Superblock, u64)> {
    let mut bytes = [0; Superblock::LEN];
    match file.read_exact_at(&mut bytes, 1024) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(DiskProblem::NotExt4),
        result => result.map_err(DiskProblem::Read)?,
    }
    let superblock = Superblock::decode(&bytes).map_err(|_| DiskProblem::NotExt4)?;
    if superblock.feature_incompat & incompat::RECOVER != 0 || superblock.state != CLEAN {
        return Err(DiskProblem::Unclean);
    }
    match superblock.feature_incompat & !SUPPORTED_FEATURES {
        0 => {}
        0x8000 => return Err(DiskProblem::Unsupported("ext4's inline_data")),
        0x10000 => return Err(DiskProblem::Unsupported("ext4's encryption")),
        0x20000 => return Err(DiskProblem::Unsupported("ext4's casefold")),
        _ => return Err(DiskProblem::Unsupported("a feature of ext4")),
    }
    if superblock.log_block_size > MAX_BLOCK_SHIFT {
        return Err(DiskProblem::Unsupported("blocks of more than 4096 bytes"));
    }
    let size = superblock.blocks_count.checked_mul(1024 << superblock.log_block_size);
    let size = size.ok_or(DiskProblem::Damaged { what: "superblock", inode: 0 })?;
    let found = file.metadata().map_err(DiskProblem::Read)?.len();
    if found < size {
        return Err(DiskProblem::Short { found, expected: size });
    }
    Ok((superblock, size))
}

/// Returns the byte offset of `group`'s descriptor.
fn descriptor_at(superblock: &Superblock, group: u64, length: u64) -> u64 {
    let (block_size, first) = (superblock.block_size(), u64::from(superblock.first_data_block));
    let in_block = block_size / length;
    let block = group / in_block;
    if superblock.feature_incompat & META_BG == 0 || block < u64::from(superblock.first_meta_bg) {
        return (first + 1) * block_size + group * length;
    }
    let of_block = block * in_block;
    let at = first
        + of_block * u64::from(superblock.blocks_per_group)
        + u64::from(has_superblock(superblock, of_block));
    at * block_size + group % in_block * length
}

/// Returns whether `group` starts with a copy of the superblock.
fn has_superblock(superblock: &Superblock, group: u64) -> bool {
    let is_power = |base: u64| {
        let mut power = base;
        while power < group {
            power *= base;
        }
        power == group
    };
    superblock.feature_ro_compat & ro_compat::SPARSE_SUPER == 0
        || group < 2
        || [3, 5, 7].into_iter().any(is_power)
}

impl<'a> Ext4<'a> {
    pub(crate) fn open(file: &'a File) -> Result<Self> {
        let damaged = || DiskProblem::Damaged { what: "superblock", inode: 0 };
        let (superblock, _) = superblock(file)?;
        let block_size = 1024 << superblock.log_block_size;
        let descriptor = if superblock.feature_incompat & incompat::BIT64 != 0 {
            usize::from(superblock.desc_size)
        } else {
            32
        };
        let is_valid = superblock.blocks_per_group > 0
            && superblock.inodes_per_group > 0
            && (128..=4096).contains(&superblock.inode_size)
            && superblock.inode_size.is_power_of_two()
            && (32..=1024).contains(&descriptor)
            && descriptor.is_power_of_two();
        let data_blocks =
            superblock.blocks_count.checked_sub(superblock.first_data_block.into()).ok_or_else(damaged)?;
        if !is_valid || data_blocks == 0 {
            return Err(damaged());
        }
        let groups = data_blocks.div_ceil(superblock.blocks_per_group.into());
        if groups > MAX_GROUPS {
            return Err(DiskProblem::TooMuch { what: "block groups", limit: MAX_GROUPS });
        }
        let mut ext4 = Self {
            file,
            block_size,
            blocks: superblock.blocks_count,
            inodes: superblock.inodes_count,
            inodes_per_group: superblock.inodes_per_group,
            inode_size: superblock.inode_size,
            tables: Vec::new(),
            extents: Cell::new(0),
            directory_blocks: Cell::new(0),
        };
        let mut bytes = vec![0; descriptor];
        for group in 0..groups {
            ext4.read(descriptor_at(&superblock, group, descriptor as u64), &mut bytes)?;
            let group = GroupDesc::decode(&bytes).map_err(|_| damaged())?;
            ext4.tables.push(group.inode_table);
        }
        Ok(ext4)
    }

    fn read(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(bytes, at).map_err(DiskProblem::Read)
    }

    fn block(&self, block: u64, owner: u32) -> Result<Vec<u8>> {
        if block >= self.blocks {
            return Err(DiskProblem::Damaged { what: "block number", inode: owner });
        }
        // A block is at most 4096 bytes, see `superblock`.
        let mut bytes = vec![0; usize::try_from(self.block_size).unwrap_or(4096)];
        self.read(block * self.block_size, &mut bytes)?;
        Ok(bytes)
    }

    fn inode_bytes(&self, number: u32) -> Result<Vec<u8>> {
        let damaged = DiskProblem::Damaged { what: "inode number", inode: number };
        if number == 0 || number > self.inodes {
            return Err(damaged);
        }
        let (group, index) = ((number - 1) / self.inodes_per_group, (number - 1) % self.inodes_per_group);
        let table = self.tables.get(group as usize).copied().filter(|table| *table < self.blocks);
        let Some(table) = table else { return Err(damaged) };
        let at = table * self.block_size + u64::from(index) * u64::from(self.inode_size);
        let mut bytes = vec![0; self.inode_size.into()];
        self.read(at, &mut bytes)?;
        Ok(bytes)
    }

    /// Returns inode `number`, which must be in use.
    pub(crate) fn inode(&self, number: u32) -> Result<Inode> {
        let damaged = |_| DiskProblem::Damaged { what: "inode", inode: number };
        let inode = Inode::decode(&self.inode_bytes(number)?).map_err(damaged)?;
        if inode.links_count == 0 || inode.file_type() == FileType::Unknown {
            return Err(DiskProblem::Damaged { what: "inode", inode: number });
        }
        Ok(inode)
    }

    /// Returns the names in directory `number` and their inodes, without `.`, `..` and the root's `lost+found`.
    pub(crate) fn names(&self, number: u32) -> Result<Vec<(String, u32)>> {
        let damaged = |what| DiskProblem::Damaged { what, inode: number };
        let inode = self.inode(number)?;
        if inode.file_type() != FileType::Dir {
            return Err(damaged("directory"));
        }
        let mut names = Vec::new();
        for extent in self.extents(number, &inode)? {
            for block in 0..extent.length / self.block_size {
                self.count(&self.directory_blocks, MAX_DIRECTORY_BLOCKS, "directory blocks")?;
                let bytes = self.block(extent.archive / self.block_size + block, number)?;
                // Blocks of hashes look like blocks without names.
                for entry in DirentIter::new(&bytes) {
                    let entry = entry.map_err(|_| damaged("directory"))?;
                    let skipped: &[&[u8]] = &[b".", b"..", LOST_FOUND];
                    if skipped
                        .iter()
                        .take(if number == ROOT_INODE { 3 } else { 2 })
                        .any(|name| *name == entry.name)
                    {
                        continue;
                    }
                    names.push((name(entry.name)?, entry.inode));
                }
            }
        }
        Ok(names)
    }

    /// Returns the extents of inode `number`, ascending and disjoint, up to its size; gaps read as zeros.
    pub(crate) fn extents(&self, number: u32, inode: &Inode) -> Result<Vec<Extent>> {
        if inode.size > MAX_FILE {
            return Err(DiskProblem::Damaged { what: "size", inode: number });
        }
        let mut extents = Vec::new();
        match inode.extent_root() {
            Some(root) => self.walk(number, root, None, &mut 0, &mut extents)?,
            None if inode.uses_extents() => {
                return Err(DiskProblem::Damaged { what: "extent tree", inode: number });
            }
            None if inode.size > 0 && inode.blocks > 0 => {
                return Err(DiskProblem::Unsupported("the block maps of ext2 and ext3"));
            }
            None => {}
        }
        extents.retain_mut(|extent| {
            extent.length = extent.length.min(inode.size.saturating_sub(extent.at));
            extent.length > 0
        });
        Ok(extents)
    }

    /// Collects the extents of a tree. They must ascend without overlap, so a tree block reached twice is an error.
    fn walk(
        &self,
        number: u32,
        node: &[u8],
        expected: Option<u16>,
        next: &mut u64,
        extents: &mut Vec<Extent>,
    ) -> Result<()> {
        let damaged = || DiskProblem::Damaged { what: "extent tree", inode: number };
        let header = ExtentHeader::decode(node).map_err(|_| damaged())?;
        let max_entries = (node.len() - ExtentHeader::LEN) / ExtentHeader::ENTRY_LEN;
        let as_expected = match expected {
            Some(depth) => header.depth == depth && header.entries > 0,
            None => header.depth <= MAX_DEPTH,
        };
        if !as_expected || usize::from(header.entries) > max_entries {
            return Err(damaged());
        }
        for entry in (0..usize::from(header.entries)).map(|index| extent::entry(node, index)) {
            if let Some(child_depth) = header.depth.checked_sub(1) {
                let child = self.block(ExtentIdx::decode(entry).leaf, number)?;
                self.walk(number, &child, Some(child_depth), next, extents)?;
                continue;
            }
            self.count(&self.extents, MAX_EXTENTS, "extents")?;
            let leaf = Leaf::decode(entry);
            let (at, length) = (u64::from(leaf.logical), u64::from(leaf.len()));
            if at < *next || length == 0 || leaf.start.saturating_add(length) > self.blocks {
                return Err(damaged());
            }
            *next = at + length;
            if !leaf.is_unwritten() {
                extents.push(Extent {
                    at: at * self.block_size,
                    archive: leaf.start * self.block_size,
                    length: length * self.block_size,
                });
            }
        }
        Ok(())
    }

    fn count(&self, counter: &Cell<u64>, limit: u64, what: &'static str) -> Result<()> {
        counter.set(counter.get() + 1);
        if counter.get() > limit { Err(DiskProblem::TooMuch { what, limit }) } else { Ok(()) }
    }

    /// Returns the target of symlink `number`.
    pub(crate) fn target(&self, number: u32, inode: &Inode) -> Result<String> {
        let damaged = || DiskProblem::Damaged { what: "symlink", inode: number };
        if inode.size == 0 || inode.size > MAX_TARGET {
            return Err(damaged());
        }
        let bytes = match inode.fast_symlink_target() {
            Some(target) => target.to_vec(),
            None => {
                let extents = self.extents(number, inode)?;
                let [Extent { at: 0, archive, length }] = extents[..] else { return Err(damaged()) };
                let mut bytes = vec![0; usize::try_from(length).map_err(|_| damaged())?];
                self.read(archive, &mut bytes)?;
                bytes
            }
        };
        let target = String::from_utf8(bytes).map_err(|_| damaged())?;
        if target.contains('\0') { Err(damaged()) } else { Ok(target) }
    }

    /// Returns the extended attributes of inode `number`: full names, and values as stored.
    pub(crate) fn attributes(&self, number: u32, inode: &Inode) -> Result<Vec<(String, Vec<u8>)>> {
        let damaged = || DiskProblem::Damaged { what: "extended attributes", inode: number };
        let refused = |error| match error {
            mkext4::Error::Unsupported(_) => DiskProblem::Unsupported("ext4's ea_inode"),
            _ => damaged(),
        };
        let mut entries = ibody_entries(&self.inode_bytes(number)?, inode.extra_isize).map_err(refused)?;
        if inode.file_acl != 0 {
            let block = self.block(inode.file_acl, number)?;
            entries.extend(XattrBlockView::parse(&block).map_err(refused)?.entries);
        }
        let named = entries.into_iter().map(|entry| {
            let name = entry.full_name().and_then(|name| String::from_utf8(name).ok());
            Ok((name.filter(|name| !name.contains('\0')).ok_or_else(damaged)?, entry.value))
        });
        named.collect()
    }
}

fn name(bytes: &[u8]) -> Result<String> {
    let refuse = |problem| DiskProblem::Entry { path: String::from_utf8_lossy(bytes).into_owned(), problem };
    let name = std::str::from_utf8(bytes).map_err(|_| refuse(EntryProblem::NotUtf8("its name")))?;
    match name {
        "" => Err(refuse(EntryProblem::EmptyName("its name"))),
        _ if name.contains('\0') => Err(refuse(EntryProblem::Nul("its name"))),
        // No kernel creates such a name; in a path it would be two names.
        _ if name.contains('/') => Err(DiskProblem::Damaged { what: "name with a /", inode: 0 }),
        _ if name.len() > NAME_MAX => Err(refuse(EntryProblem::TooLong("its name"))),
        _ => Ok(name.to_owned()),
    }
}
