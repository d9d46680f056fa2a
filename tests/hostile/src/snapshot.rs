//! The state of a directory tree, without times, and the differences between two states.

use std::{
    collections::BTreeMap,
    fs::{self, Metadata},
    hash::{DefaultHasher, Hash, Hasher},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// Resolution of the kernel's file times, with a margin: a file changed so shortly before it was read may have been
/// changed again at the same time.
const TIME_RESOLUTION: Duration = Duration::from_millis(50);

/// The state of a tree.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    entries: BTreeMap<PathBuf, Entry>,
}

/// A file, directory or link.
#[derive(Debug, Clone)]
struct Entry {
    mode: u32,
    size: u64,
    /// Hash of a file's content or a link's target.
    content: u64,
    /// Identifies the state of the file, if its content need not be read again: inode and time of the last change.
    unchanged: Option<(u64, i64, i64)>,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.mode, self.content) == (other.mode, other.content)
    }
}

impl Snapshot {
    /// Reads `dirs` below `root`. Takes the content of files that have not changed from `previous`.
    pub(crate) fn take(root: &Path, dirs: &[&str], previous: &Self) -> Self {
        let mut snapshot = Self::default();
        for dir in dirs {
            snapshot.add(root, Path::new(dir), previous);
        }
        snapshot
    }

    fn add(&mut self, root: &Path, path: &Path, previous: &Self) {
        let full = root.join(path);
        // A client that was interrupted may still be removing a file.
        let Ok(meta) = fs::symlink_metadata(&full) else { return };
        let entry = Entry::read(&full, &meta, previous.entries.get(path));
        self.entries.insert(path.to_owned(), entry);
        if meta.is_dir() {
            for child in fs::read_dir(&full).into_iter().flatten().flatten() {
                self.add(root, &path.join(child.file_name()), previous);
            }
        }
    }

    /// Returns the paths that differ, in order.
    pub(crate) fn differences(&self, other: &Self) -> Vec<PathBuf> {
        let mut paths: Vec<_> = self.entries.keys().chain(other.entries.keys()).cloned().collect();
        paths.sort();
        paths.dedup();
        paths.retain(|path| self.entries.get(path) != other.entries.get(path));
        paths
    }

    pub(crate) fn contains(&self, path: &Path) -> bool {
        self.entries.contains_key(path)
    }

    pub(crate) fn is_dir(&self, path: &Path) -> bool {
        let entry = self.entries.get(path);
        entry.is_some_and(|entry| entry.mode & 0o170_000 == 0o040_000)
    }

    /// Returns the total size of all files.
    pub(crate) fn size(&self) -> u64 {
        self.entries.values().map(|entry| entry.size).sum()
    }
}

impl Entry {
    fn read(path: &Path, meta: &Metadata, previous: Option<&Self>) -> Self {
        let size = if meta.is_file() { meta.len() } else { 0 };
        let state = (meta.ino(), meta.ctime(), meta.ctime_nsec());
        let known = previous.filter(|entry| entry.unchanged == Some(state) && entry.mode == meta.mode());
        let content = known.map_or_else(|| hash(path, meta), |entry| entry.content);
        let changed = SystemTime::UNIX_EPOCH
            + Duration::new(meta.ctime().unsigned_abs(), u32::try_from(meta.ctime_nsec()).unwrap_or(0));
        let is_old = changed.elapsed().is_ok_and(|age| age > TIME_RESOLUTION);
        Self { mode: meta.mode(), size, content, unchanged: is_old.then_some(state) }
    }
}

fn hash(path: &Path, meta: &Metadata) -> u64 {
    let mut hasher = DefaultHasher::new();
    if meta.is_symlink() {
        fs::read_link(path).unwrap_or_default().as_os_str().as_bytes().hash(&mut hasher);
    } else if meta.is_file() {
        fs::read(path).unwrap_or_default().hash(&mut hasher);
    }
    hasher.finish()
}

/// Restores `path` below `root` to its state below `pristine`.
pub(crate) fn restore(root: &Path, pristine: &Path, path: &Path) {
    let (to, from) = (root.join(path), pristine.join(path));
    let is_dir = |path: &Path| fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir());
    if !(is_dir(&to) && is_dir(&from)) {
        if is_dir(&to) {
            fs::remove_dir_all(&to).unwrap();
        } else {
            // It may not exist.
            let _ = fs::remove_file(&to);
        }
        copy(&from, &to);
    } else {
        fs::set_permissions(&to, fs::symlink_metadata(&from).unwrap().permissions()).unwrap();
    }
}

/// Copies what is at `from`, with everything in it, if anything is there. Only files, directories and links are copied.
pub(crate) fn copy(from: &Path, to: &Path) {
    let Ok(meta) = fs::symlink_metadata(from) else { return };
    if meta.is_dir() {
        if fs::symlink_metadata(to).is_err() {
            fs::create_dir(to).unwrap();
        }
        for child in fs::read_dir(from).unwrap() {
            let name = child.unwrap().file_name();
            copy(&from.join(&name), &to.join(&name));
        }
        fs::set_permissions(to, meta.permissions()).unwrap();
    } else if meta.is_symlink() {
        std::os::unix::fs::symlink(fs::read_link(from).unwrap(), to).unwrap();
    } else if meta.is_file() {
        fs::copy(from, to).unwrap();
        fs::File::open(to).unwrap().set_modified(meta.modified().unwrap()).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_found_and_restored() {
        let dir = tempfile::tempdir().unwrap();
        let (root, pristine) = (dir.path().join("root"), dir.path().join("pristine"));
        fs::create_dir_all(root.join("home/dir")).unwrap();
        for name in ["same", "changed", "dir/replaced", "removed"] {
            fs::write(root.join("home").join(name), "old").unwrap();
        }
        std::os::unix::fs::symlink("same", root.join("home/link")).unwrap();
        copy(&root, &pristine);
        let take = |previous: &Snapshot| Snapshot::take(&root, &["home"], previous);
        let before = take(&Snapshot::default());
        assert!(take(&before).differences(&before).is_empty());
        fs::write(root.join("home/changed"), "new").unwrap();
        fs::remove_file(root.join("home/removed")).unwrap();
        fs::remove_dir_all(root.join("home/dir")).unwrap();
        fs::write(root.join("home/dir"), "a file").unwrap();
        fs::remove_file(root.join("home/link")).unwrap();
        std::os::unix::fs::symlink("other", root.join("home/link")).unwrap();
        fs::create_dir_all(root.join("home/added/deep")).unwrap();
        let changed = take(&before).differences(&before);
        let names: Vec<_> = changed.iter().map(|path| path.to_str().unwrap()).collect();
        let expected = ["added", "added/deep", "changed", "dir", "dir/replaced", "link", "removed"];
        assert_eq!(names, expected.map(|name| format!("home/{name}")));
        changed.iter().for_each(|path| restore(&root, &pristine, path));
        assert!(take(&before).differences(&before).is_empty());
    }
}
