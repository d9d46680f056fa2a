//! Finds what the guest has changed among the paths that the host would write.

use std::collections::{BTreeMap, BTreeSet};

use banger_files::{ListedFile, Time};
use rustix::fs::FileType;

use crate::{
    Record, Snapshot,
    guest_git::{self, Checkout},
    index::is_same_index,
    record::{LINK, SentFile, modes},
    snapshot::FileSource,
};

/// git's files that the host writes again after a checkout or when something is staged.
pub(crate) const HEAD: &[u8] = b".git/HEAD";
pub(crate) const INDEX: &[u8] = b".git/index";

pub(crate) fn is_git_path(path: &[u8]) -> bool {
    path.starts_with(b".git/")
}

/// Returns the paths that the host would write or remove, but the guest has changed.
pub(crate) fn conflicts(
    snapshot: &Snapshot,
    record: &Record,
    listed: &[ListedFile],
    writes: &BTreeSet<Vec<u8>>,
    deleted: &BTreeSet<Vec<u8>>,
) -> Vec<Vec<u8>> {
    let mut paths = Vec::new();
    for file in listed.iter().filter(|file| !is_git_path(&file.path)) {
        let path = &file.path;
        let sent = record.files.get(path);
        let is_unchanged = sent.is_some_and(|sent| sent.is_unchanged(file));
        let is_affected = writes.contains(path)
            || deleted.contains(path)
            // A file where a directory is needed, or the reverse.
            || (!snapshot.files.contains_key(path)
                && (first_below(writes, path).is_some() || parents(path).any(|parent| writes.contains(parent))));
        if is_affected && !is_unchanged && !is_identical(snapshot, file) {
            paths.push(path.clone());
        }
    }
    let listed_paths: BTreeSet<_> = listed.iter().map(|file| &file.path).collect();
    // Files that the guest has deleted and the host has changed.
    let missing =
        writes.iter().filter(|path| record.files.contains_key(*path) && !listed_paths.contains(path));
    paths.extend(missing.cloned());
    paths
}

/// Returns whether the guest's file looks like the file that the host would write.
fn is_identical(snapshot: &Snapshot, file: &ListedFile) -> bool {
    let Some(FileSource::OnDisk { stat, .. }) = snapshot.files.get(&file.path) else { return false };
    let mode = if stat.file_type() == FileType::Symlink { LINK } else { modes(stat.mode).0 };
    let sent = SentFile {
        mode,
        size: stat.size,
        modified: stat.modified,
        host: None,
        id: None,
        placed_at: Time::default(),
    };
    sent.matches(file)
}

/// Returns a path of `paths` below the directory `dir`.
fn first_below<'a>(paths: &'a BTreeSet<Vec<u8>>, dir: &[u8]) -> Option<&'a Vec<u8>> {
    let prefix = [dir, b"/"].concat();
    paths.range(prefix.clone()..).next().filter(|path| path.starts_with(&prefix))
}

/// Returns the parent directories of `path`, innermost first.
pub(crate) fn parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/');
    slashes.map(|(at, _)| path.get(..at).unwrap_or_default())
}

/// Returns git's files that the host would write, but the guest has changed: of `git_files`, whose metadata differs,
/// those whose content is neither what was sent nor what would be sent.
pub(crate) fn git_conflicts(
    snapshot: &Snapshot,
    record: &Record,
    git_files: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> Vec<Vec<u8>> {
    let checkouts = [&record.state.checkout, &snapshot.checkout];
    let is_known = |path: &[u8], bytes: &[u8]| {
        if path == INDEX {
            return is_known_index(snapshot, record, bytes);
        }
        checkouts.iter().any(|checkout| {
            if path == HEAD {
                return bytes == guest_git::head(checkout);
            }
            let commit =
                checkout.commit.as_deref().filter(|_| branch_file(checkout).as_deref() == Some(path));
            commit.is_some_and(|commit| bytes == guest_git::line(commit))
        })
    };
    git_files.iter().filter(|(path, bytes)| !is_known(path, bytes)).map(|(path, _)| path.clone()).collect()
}

/// Returns whether the guest's index stages what was sent or what would be sent.
fn is_known_index(snapshot: &Snapshot, record: &Record, bytes: &[u8]) -> bool {
    let known = [record.index.as_ref(), snapshot.index.as_ref().map(|index| &index.bytes)];
    known.into_iter().flatten().any(|known| is_same_index(bytes, known, record.state.id_length))
}

/// Returns the path of the file of the branch that is checked out.
pub(crate) fn branch_file(checkout: &Checkout) -> Option<Vec<u8>> {
    checkout.branch.as_ref().map(|branch| format!(".git/{branch}").into_bytes())
}
