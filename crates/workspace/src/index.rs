//! Parses git's index: the tracked paths and their state. Format: git's `gitformat-index(5)`, versions 2 to 4.
//!
//! The input may come from a hostile guest or repository.

use banger_files::Time;

use crate::WorkspaceError;
use crate::git::unexpected_output;

/// An entry of the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    pub(crate) path: Vec<u8>,
    /// git's mode: 0o100644, 0o100755, 0o120000, 0o160000.
    pub(crate) mode: u32,
    /// The object's id, in hex digits.
    pub(crate) id: String,
    /// The stage: 0, or 1 to 3 for the sides of a conflict.
    pub(crate) stage: u8,
    /// Whether the file may be missing from the working tree.
    pub(crate) skip_worktree: bool,
    /// Whether the entry is "intent to add", without content.
    pub(crate) intent_to_add: bool,
    /// The file's modification time and size when git last updated the entry.
    pub(crate) modified: Time,
    pub(crate) size: u32,
}

/// Mode of a submodule's commit.
pub(crate) const GITLINK: u32 = 0o160_000;

/// Mode of a directory that replaces all entries below it.
const SPARSE_DIRECTORY: u32 = 0o040_000;

/// A parsed index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Index {
    /// A complete index, and the id of its tree if the index records it.
    Complete(Vec<IndexEntry>, Option<String>),
    /// A split index, or one with collapsed directories. git can expand it.
    Incomplete,
}

/// Parses the index of a repository whose object ids have `id_length` bytes.
pub(crate) fn parse(bytes: &[u8], id_length: usize) -> Result<Index, &'static str> {
    let mut input = Input { bytes, at: 0 };
    if input.take(4)? != b"DIRC" {
        return Err("its header is invalid");
    }
    let version = input.u32()?;
    if !(2..=4).contains(&version) {
        return Err("its version is not supported");
    }
    let count = input.u32()?;
    // The minimum size of an entry.
    let max_count = bytes.len() / (42 + id_length);
    if usize::try_from(count).map_or(true, |count| count > max_count) {
        return Err("its number of entries is too large");
    }
    let mut entries: Vec<IndexEntry> = Vec::new();
    let mut incomplete = false;
    for _ in 0..count {
        let previous_path = entries.last().map(|entry| entry.path.as_slice()).unwrap_or_default();
        let entry = entry(&mut input, version, id_length, previous_path)?;
        incomplete |= entry.mode == SPARSE_DIRECTORY;
        entries.push(entry);
    }
    let mut tree = None;
    while input.remaining() > id_length {
        let name = input.take(4)?;
        incomplete |= name == b"link";
        // A lower-case name marks an extension that every reader must understand.
        if name.first().is_some_and(u8::is_ascii_lowercase) && !matches!(name, b"link" | b"sdir") {
            return Err("it has an unknown extension");
        }
        let length = usize::try_from(input.u32()?).map_err(|_| TRUNCATED)?;
        let extension = input.take(length)?;
        if name == b"TREE" {
            tree = root_tree(extension, id_length);
        }
    }
    Ok(if incomplete { Index::Incomplete } else { Index::Complete(entries, tree) })
}

/// Returns the tree of the whole index. The extension `TREE` starts with it: an empty path, the number of entries (-1
/// if the tree is unknown), the number of subtrees, and the id.
fn root_tree(extension: &[u8], id_length: usize) -> Option<String> {
    let line = extension.strip_prefix(b"\0")?;
    let end = line.iter().position(|byte| *byte == b'\n')?;
    let (line, rest) = line.split_at(end);
    if line.starts_with(b"-") {
        return None;
    }
    Some(hex(rest.get(1..=id_length)?))
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

const TRUNCATED: &str = "it is truncated";

fn entry(
    input: &mut Input<'_>,
    version: u32,
    id_length: usize,
    previous_path: &[u8],
) -> Result<IndexEntry, &'static str> {
    let start = input.at;
    input.take(8)?;
    let (seconds, nanoseconds) = (input.u32()?, input.u32()?);
    input.take(8)?;
    let mode = input.u32()?;
    input.take(8)?;
    let size = input.u32()?;
    let id = hex(input.take(id_length)?);
    let flags = input.u16()?;
    let extended = if flags & 0x4000 != 0 && version >= 3 { input.u16()? } else { 0 };
    let path = if version == 4 {
        let strip = input.varint()?;
        let prefix_length = previous_path.len().checked_sub(strip).ok_or("a path is invalid")?;
        [previous_path.get(..prefix_length).unwrap_or_default(), input.until_zero()?].concat()
    } else {
        let path = input.until_zero()?.to_vec();
        // An entry is padded with one to eight zeros to a multiple of 8 bytes.
        let length = input.at - start;
        input.take((8 - length % 8) % 8)?;
        path
    };
    Ok(IndexEntry {
        path,
        mode,
        id,
        stage: u8::try_from((flags >> 12) & 3).unwrap_or(0),
        skip_worktree: extended & 0x4000 != 0,
        intent_to_add: extended & 0x2000 != 0,
        modified: Time { seconds: i64::from(seconds), nanoseconds },
        size,
    })
}

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], &'static str> {
        let end = self.at.checked_add(count).ok_or(TRUNCATED)?;
        let bytes = self.bytes.get(self.at..end).ok_or(TRUNCATED)?;
        self.at = end;
        Ok(bytes)
    }

    fn u16(&mut self) -> Result<u16, &'static str> {
        self.take(2)?.try_into().map(u16::from_be_bytes).map_err(|_| TRUNCATED)
    }

    fn u32(&mut self) -> Result<u32, &'static str> {
        self.take(4)?.try_into().map(u32::from_be_bytes).map_err(|_| TRUNCATED)
    }

    /// Reads a variable-length number, encoded as offsets in git's packs.
    fn varint(&mut self) -> Result<usize, &'static str> {
        let mut value = 0_usize;
        loop {
            let byte = *self.take(1)?.first().ok_or(TRUNCATED)?;
            value = (value << 7) | usize::from(byte & 0x7f);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
            value = value.checked_add(1).filter(|value| *value < 1 << 24).ok_or("a number is too large")?;
        }
    }

    fn until_zero(&mut self) -> Result<&'a [u8], &'static str> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(|byte| *byte == 0).ok_or(TRUNCATED)?;
        let bytes = self.take(length)?;
        self.take(1)?;
        Ok(bytes)
    }
}

/// Parses an index that must be complete.
pub(crate) fn parse_complete(
    bytes: &[u8],
    id_length: usize,
    location: &str,
) -> Result<Vec<IndexEntry>, WorkspaceError> {
    match parse(bytes, id_length) {
        Ok(Index::Complete(entries, _)) => Ok(entries),
        Ok(Index::Incomplete) => {
            Err(unexpected_output("update-index", "the index is still split or sparse").into())
        }
        Err(problem) => Err(WorkspaceError::Index { location: location.to_owned(), problem }),
    }
}

/// Returns whether two indexes stage the same content, whatever metadata they have. Both must be complete.
pub(crate) fn is_same_index(one: &[u8], other: &[u8], id_length: usize) -> bool {
    match (parse(one, id_length), parse(other, id_length)) {
        (Ok(Index::Complete(one, _)), Ok(Index::Complete(other, _))) => same_entries(&one, &other),
        _ => false,
    }
}

/// Returns whether the entries stage the same content, whatever metadata they have.
pub(crate) fn same_entries(one: &[IndexEntry], other: &[IndexEntry]) -> bool {
    let staged = |entry: &IndexEntry| IndexEntry { modified: Time::default(), size: 0, ..entry.clone() };
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| staged(one) == staged(other))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, process::Command};

    use proptest::prelude::*;

    use super::*;

    fn git(dir: &Path, arguments: &[&str]) {
        let output = Command::new("git").current_dir(dir).args(arguments).output().unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// For each version, the parser agrees with `git ls-files`.
    #[test]
    fn indexes_written_by_git_are_parsed() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        git(dir, &["init", "-q"]);
        for name in ["a", "a b", "dir/longer/name", "dir/longer/named", "z\n"] {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        for version in ["2", "3", "4"] {
            git(dir, &["update-index", "--index-version", version]);
            git(dir, &["add", "-A"]);
            if version != "2" {
                let later = format!("later {version}");
                fs::write(dir.join(&later), "x").unwrap();
                git(dir, &["add", "-N", &later]);
                git(dir, &["update-index", "--skip-worktree", "a"]);
            }
            let Index::Complete(entries, _) = parse(&fs::read(dir.join(".git/index")).unwrap(), 20).unwrap()
            else {
                panic!("the index is incomplete")
            };
            let listed =
                Command::new("git").current_dir(dir).args(["ls-files", "-s", "-z"]).output().unwrap();
            let printed: Vec<u8> = entries
                .iter()
                .flat_map(|entry| {
                    let head = format!("{:06o} {} {}\t", entry.mode, entry.id, entry.stage);
                    [head.as_bytes(), &entry.path, b"\0"].concat()
                })
                .collect();
            assert_eq!(String::from_utf8_lossy(&printed), String::from_utf8_lossy(&listed.stdout));
            let a = &entries[0];
            assert_eq!((a.size, a.skip_worktree), (1, version != "2"));
            assert!(a.modified.seconds > 0);
            assert_eq!(
                entries.iter().filter(|entry| entry.intent_to_add).count(),
                usize::from(version != "2")
            );
        }
        let tree = || match parse(&fs::read(dir.join(".git/index")).unwrap(), 20).unwrap() {
            Index::Complete(_, tree) => tree,
            Index::Incomplete => panic!("the index is incomplete"),
        };
        assert_eq!(tree(), None);
        git(dir, &["add", "-A"]);
        let written = Command::new("git").current_dir(dir).args(["write-tree"]).output().unwrap();
        assert_eq!(tree().as_deref(), Some(String::from_utf8_lossy(&written.stdout).trim()));
        git(dir, &["update-index", "--split-index"]);
        assert_eq!(parse(&fs::read(dir.join(".git/index")).unwrap(), 20), Ok(Index::Incomplete));
    }

    proptest! {
        #[test]
        fn parsing_any_bytes_returns_an_index_or_an_error(
            version in 2u8..5,
            count in 0u8..9,
            bytes in prop::collection::vec(any::<u8>(), 0..600),
        ) {
            let head = [&b"DIRC\0\0\0"[..], &[version, 0, 0, 0, count]].concat();
            let _ = parse(&[&head[..], &bytes].concat(), 20);
            let _ = parse(&bytes, 32);
        }
    }
}
