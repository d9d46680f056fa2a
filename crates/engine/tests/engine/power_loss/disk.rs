//! A disk: what the recorded calls have written, and what of it is there after a power loss.
//!
//! A write is certain to be on the disk once its file is synced, and a name once its directory is. Everything else may
//! be there or not, each independently: file systems promise no more (fsync(2)).

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::trace::Call;

/// The number of a file or directory.
pub(super) type Inode = usize;

/// The directory whose content is on the disk.
const ROOT: Inode = 0;

/// The names in all directories.
type Names = BTreeMap<(Inode, OsString), Inode>;

#[derive(Debug, Clone)]
enum Kind {
    Directory,
    /// A file, with the path of its content before the recording.
    File(Option<PathBuf>),
    Link(PathBuf),
}

/// A change to the disk.
#[derive(Debug)]
enum Change {
    Write { file: Inode, offset: u64, length: u64, bytes: Vec<u8> },
    Truncate { file: Inode, length: u64 },
    Name { directory: Inode, name: OsString, inode: Option<Inode> },
    Rename { from: (Inode, OsString), to: (Inode, OsString), inode: Inode },
}

/// A change, with the number of calls after which it is certain to be on the disk.
#[derive(Debug)]
pub(super) struct Write {
    /// The number of calls before it.
    pub(super) at: usize,
    certain_from: usize,
    change: Change,
    /// Whether it is to a file of the store's, or to its name.
    pub(super) of_store: bool,
}

impl Write {
    /// Whether it changes a file's content, not a directory.
    pub(super) fn is_content(&self) -> bool {
        matches!(self.change, Change::Write { .. } | Change::Truncate { .. })
    }
}

/// The disk, with everything that was written to it in order.
#[derive(Debug)]
pub(super) struct Disk {
    root: PathBuf,
    kinds: Vec<Kind>,
    before: Names,
    writes: Vec<Write>,
    /// The files' lengths after all writes.
    lengths: BTreeMap<Inode, u64>,
}

/// The disk after a power loss.
#[derive(Debug)]
pub(super) struct Snapshot<'a> {
    disk: &'a Disk,
    at: usize,
    names: Names,
    /// Whether each write is on the disk.
    survived: Vec<bool>,
}

impl Disk {
    /// Returns the disk that had the files in `original` before `calls`, in the directory `root`.
    pub(super) fn replay(root: &Path, original: &Path, calls: &[Call]) -> Result<Self> {
        let mut disk = Self {
            root: root.to_owned(),
            kinds: vec![Kind::Directory],
            before: Names::new(),
            writes: Vec::new(),
            lengths: BTreeMap::new(),
        };
        disk.load(original, ROOT)?;
        let mut names = disk.before.clone();
        for (at, call) in calls.iter().enumerate() {
            disk.apply(at, call, &mut names).with_context(|| format!("{call:?}"))?;
        }
        Ok(disk)
    }

    fn load(&mut self, original: &Path, directory: Inode) -> Result<()> {
        for entry in fs::read_dir(original).with_context(|| original.display().to_string())? {
            let entry = entry?;
            let path = entry.path();
            let kind = entry.file_type()?;
            let inode = self.add(match () {
                () if kind.is_dir() => Kind::Directory,
                () if kind.is_symlink() => Kind::Link(fs::read_link(&path)?),
                () => Kind::File(Some(path.clone())),
            });
            self.before.insert((directory, entry.file_name()), inode);
            self.lengths.insert(inode, entry.metadata()?.len());
            if kind.is_dir() {
                self.load(&path, inode)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, kind: Kind) -> Inode {
        self.kinds.push(kind);
        self.kinds.len() - 1
    }

    /// Returns the directory and the name of `path`; `None` if it is not on this disk.
    fn place(&self, path: &Path, names: &Names) -> Option<(Inode, OsString)> {
        let path = path.strip_prefix(&self.root).ok()?;
        Some((find(path.parent()?, names)?, path.file_name()?.to_owned()))
    }

    fn inode(&self, path: &Path, names: &Names) -> Option<Inode> {
        find(path.strip_prefix(&self.root).ok()?, names)
    }

    fn apply(&mut self, at: usize, call: &Call, names: &mut Names) -> Result<()> {
        let change = match call {
            Call::Open { path, create, truncate } => match (self.inode(path, names), self.place(path, names))
            {
                (Some(file), _) if *truncate => Change::Truncate { file, length: 0 },
                (None, Some((directory, name))) if *create => {
                    Change::Name { directory, name, inode: Some(self.add(Kind::File(None))) }
                }
                _ => return Ok(()),
            },
            Call::Write { path, offset, length, bytes } => match self.inode(path, names) {
                Some(file) => {
                    let end = self.lengths.entry(file).or_default();
                    let offset = offset.unwrap_or(*end);
                    *end = (*end).max(offset + length);
                    Change::Write { file, offset, length: *length, bytes: bytes.clone() }
                }
                None => return Ok(()),
            },
            Call::Truncate { path, length } => match self.inode(path, names) {
                Some(file) => Change::Truncate { file, length: *length },
                None => return Ok(()),
            },
            Call::Sync { path } => {
                if let Some(inode) = self.inode(path, names) {
                    self.sync(inode, at);
                }
                return Ok(());
            }
            Call::Rename { from, to } => match (self.place(from, names), self.place(to, names)) {
                (Some(from), Some(to)) => {
                    let inode = *names.get(&from).context("renamed, but missing")?;
                    Change::Rename { from, to, inode }
                }
                (None, None) => return Ok(()),
                other => anyhow::bail!("renamed across the disk: {other:?}"),
            },
            Call::Link { from, to } => match (self.inode(from, names), self.place(to, names)) {
                (inode @ Some(_), Some((directory, name))) => Change::Name { directory, name, inode },
                _ => return Ok(()),
            },
            Call::Symlink { target, path } => match self.place(path, names) {
                Some((directory, name)) => {
                    Change::Name { directory, name, inode: Some(self.add(Kind::Link(target.clone()))) }
                }
                None => return Ok(()),
            },
            Call::Mkdir { path } => match self.place(path, names) {
                Some((directory, name)) => {
                    Change::Name { directory, name, inode: Some(self.add(Kind::Directory)) }
                }
                None => return Ok(()),
            },
            Call::Remove { path } => match self.place(path, names) {
                Some((directory, name)) => Change::Name { directory, name, inode: None },
                None => return Ok(()),
            },
            Call::Output { .. } => return Ok(()),
        };
        if let Change::Truncate { file, length } = &change {
            self.lengths.insert(*file, *length);
        }
        let of_store = of_store(call);
        rename(names, &change);
        self.writes.push(Write { at, certain_from: usize::MAX, change, of_store });
        Ok(())
    }

    fn sync(&mut self, inode: Inode, at: usize) {
        for write in self.writes.iter_mut().filter(|write| write.certain_from == usize::MAX) {
            let is_synced = match &write.change {
                Change::Write { file, .. } | Change::Truncate { file, .. } => *file == inode,
                Change::Name { directory, .. } => *directory == inode,
                // All file systems rename atomically.
                Change::Rename { from, to, .. } => from.0 == inode || to.0 == inode,
            };
            if is_synced {
                write.certain_from = at + 1;
            }
        }
    }

    /// Returns the disk after a power loss when `at` calls have returned. Of the writes that are not certain to be on
    /// the disk, those are that `survives` returns true for.
    pub(super) fn after_power_loss(
        &self,
        at: usize,
        mut survives: impl FnMut(&Write) -> bool,
    ) -> Snapshot<'_> {
        let made = self.writes.iter().take_while(|write| write.at < at);
        let survived: Vec<_> = made.map(|write| write.certain_from <= at || survives(write)).collect();
        let mut names = self.before.clone();
        for (write, _) in self.writes.iter().zip(&survived).filter(|(_, survived)| **survived) {
            rename(&mut names, &write.change);
        }
        Snapshot { disk: self, at, names, survived }
    }
}

/// Whether a call is about a file of the store's.
fn of_store(call: &Call) -> bool {
    let path = match call {
        Call::Open { path, .. } | Call::Write { path, .. } | Call::Truncate { path, .. } => path,
        Call::Remove { path } => path,
        _ => return false,
    };
    is_of_store(path)
}

fn is_of_store(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("store."))
}

/// Applies a change to the names.
fn rename(names: &mut Names, change: &Change) {
    match change {
        Change::Name { directory, name, inode: Some(inode) } => {
            names.insert((*directory, name.clone()), *inode);
        }
        Change::Name { directory, name, inode: None } => {
            names.remove(&(*directory, name.clone()));
        }
        Change::Rename { from, to, inode } => {
            // Without its file, if that name did not survive: then there is nothing to rename.
            names.remove(from);
            names.insert(to.clone(), *inode);
        }
        Change::Write { .. } | Change::Truncate { .. } => {}
    }
}

fn find(path: &Path, names: &Names) -> Option<Inode> {
    path.iter().try_fold(ROOT, |directory, name: &OsStr| names.get(&(directory, name.to_owned())).copied())
}

impl Snapshot<'_> {
    /// Returns the numbers of the writes that are on the disk.
    pub(super) fn survivors(&self) -> Vec<usize> {
        let numbers = self.survived.iter().enumerate();
        numbers.filter_map(|(number, survived)| survived.then_some(number)).collect()
    }

    /// Creates the files in the directory `to`. Content that was not recorded is zero.
    pub(super) fn write_to(&self, to: &Path) -> Result<()> {
        self.write_directory(ROOT, to)
    }

    fn write_directory(&self, directory: Inode, to: &Path) -> Result<()> {
        fs::create_dir(to).with_context(|| to.display().to_string())?;
        fs::set_permissions(to, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        let entries = self.names.range((directory, OsString::new())..(directory + 1, OsString::new()));
        for ((_, name), inode) in entries {
            let path = to.join(name);
            match &self.disk.kinds[*inode] {
                Kind::Directory => self.write_directory(*inode, &path)?,
                Kind::Link(target) => symlink(target, &path)?,
                // Rebuilt at each start.
                Kind::File(_) if path.to_string_lossy().ends_with("-shm") => {}
                Kind::File(before) => self.write_file(*inode, before.as_deref(), &path)?,
            }
        }
        Ok(())
    }

    fn write_file(&self, inode: Inode, before: Option<&Path>, path: &Path) -> Result<()> {
        use std::os::unix::fs::FileExt;
        let writes: Vec<_> = self.writes_to(inode).filter(|(_, survived)| *survived).collect();
        if let Some(before) = before {
            // The daemon writes to the store's files, and replaces all others.
            if writes.is_empty() && !is_of_store(path) {
                return fs::hard_link(before, path).with_context(|| before.display().to_string());
            }
            fs::copy(before, path)?;
        }
        let file = fs::File::options().write(true).create(true).truncate(false).open(path)?;
        for (write, _) in writes {
            match &write.change {
                Change::Write { offset, length, bytes, .. } => {
                    file.set_len(file.metadata()?.len().max(offset + length))?;
                    file.write_all_at(bytes, *offset)?;
                }
                Change::Truncate { length, .. } => file.set_len(*length)?,
                Change::Name { .. } | Change::Rename { .. } => {}
            }
        }
        Ok(())
    }

    /// Returns the writes to a file, and whether each is on the disk.
    fn writes_to(&self, inode: Inode) -> impl Iterator<Item = (&Write, bool)> {
        let made = self.disk.writes.iter().zip(self.survived.iter().copied());
        made.filter(move |(write, _)| match &write.change {
            Change::Write { file, .. } | Change::Truncate { file, .. } => *file == inode,
            Change::Name { .. } | Change::Rename { .. } => false,
        })
    }

    /// Returns whether a file has the content that it had when it got its name, or more. `None` if it does not exist.
    pub(super) fn is_complete(&self, path: &Path) -> Option<bool> {
        let inode = self.disk.inode(path, &self.names)?;
        let named = self.disk.writes.iter().filter_map(|write| match &write.change {
            Change::Rename { inode: renamed, .. } if *renamed == inode => Some(write.at),
            _ => None,
        });
        let named = named.max().unwrap_or(self.at);
        Some(self.writes_to(inode).all(|(write, survived)| survived || write.at > named))
    }
}
