//! Checks that the parts of a git directory belong to it. A hostile one can lead to another repository of the user, so
//! that its content is sent to a VM, or to any directory, so that a pull writes there.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use crate::{WorkspaceError, error::reading, git::read_file};

/// Parts of a git directory that may be links: some tools share them between working trees.
const SHARED: [&str; 6] = ["objects", "refs", "reftable", "logs", "packed-refs", "shallow"];

/// Returns the target of the `.git` file or link in `root`. Returns `None` if `.git` is a directory, or missing.
pub(crate) fn pointer(root: &Path) -> Option<PathBuf> {
    let path = root.join(".git");
    let kind = fs::symlink_metadata(&path).ok()?.file_type();
    if kind.is_symlink() && !path.is_file() {
        return fs::canonicalize(path).ok();
    }
    if kind.is_dir() {
        return None;
    }
    let text = read_file(&path).ok().flatten()?;
    fs::canonicalize(root.join(line(text.strip_prefix(b"gitdir: ").unwrap_or(&text)))).ok()
}

/// Returns whether `.git` of `root` leads to the git directory of another linked working tree.
///
/// Call it before git runs there: git would change the other's entry in favour of `root`.
pub(crate) fn is_other_work_tree(root: &Path) -> bool {
    let Some(git_dir) = pointer(root) else { return false };
    let Ok(Some(text)) = read_file(&git_dir.join("gitdir")) else { return false };
    match (fs::canonicalize(git_dir.join(line(&text))), fs::canonicalize(root.join(".git"))) {
        (Ok(named), Ok(git_file)) => named != git_file,
        _ => true,
    }
}

/// Checks that the git directories of `root` are its own.
pub(crate) fn check_git_dirs(
    root: &Path,
    git_dir: &Path,
    common_dir: &Path,
    has_work_tree: bool,
) -> Result<(), WorkspaceError> {
    let is_linked = git_dir.join("gitdir").exists();
    if pointer(root).is_some() {
        // A directory of this name belongs to its parent directory, unless its configuration names a working tree.
        if !is_linked && !has_work_tree && git_dir.file_name() == Some(OsStr::new(".git")) {
            return Err(foreign(root.join(".git"), git_dir));
        }
    }
    if common_dir != git_dir && !(is_linked && git_dir.starts_with(common_dir.join("worktrees"))) {
        return Err(foreign(git_dir.join("commondir"), common_dir));
    }
    Ok(())
}

/// Checks the parts of `git_dir`, and the files or directories `paths` below them.
pub(crate) fn check(git_dir: &Path, paths: &[&str]) -> Result<(), WorkspaceError> {
    for name in SHARED {
        let part = git_dir.join(name);
        if let Some(target) = link_target(&part)?
            && (target.file_name() != Some(OsStr::new(name)) || is_in_other_git_dir(&target, git_dir))
        {
            return Err(foreign(part, &target));
        }
    }
    for path in paths {
        let mut part = git_dir.to_owned();
        for name in Path::new(path) {
            part.push(name);
            let is_shared = SHARED.iter().any(|shared| part == git_dir.join(shared));
            if let Some(target) = link_target(&part)?.filter(|_| !is_shared) {
                return Err(foreign(part, &target));
            }
        }
    }
    Ok(())
}

/// Checks the entries of the directory `path` of `git_dir`, and if it is `deep`, everything below.
pub(crate) fn check_entries(git_dir: &Path, path: &str, deep: bool) -> Result<(), WorkspaceError> {
    let mut dirs = vec![git_dir.join(path)];
    while let Some(dir) = dirs.pop() {
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if is_missing(&error) => continue,
            Err(error) => return Err(reading(dir)(error)),
        };
        for entry in entries {
            let entry = entry.map_err(reading(&dir))?;
            let path = entry.path();
            if let Some(target) = link_target(&path)? {
                return Err(foreign(path, &target));
            }
            if deep && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                dirs.push(path);
            }
        }
    }
    Ok(())
}

/// Returns the path that `path` leads to, if it is a link.
fn link_target(path: &Path) -> Result<Option<PathBuf>, WorkspaceError> {
    match fs::read_link(path) {
        // A link to nothing has no other name.
        Ok(target) => Ok(Some(fs::canonicalize(path).unwrap_or(target))),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput || is_missing(&error) => Ok(None),
        Err(error) => Err(reading(path)(error)),
    }
}

/// Returns whether `path` is in the git directory of a working tree, except `git_dir`.
fn is_in_other_git_dir(path: &Path, git_dir: &Path) -> bool {
    !path.starts_with(git_dir) && path.iter().any(|name| name == ".git")
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Returns the path on the only line of a file.
fn line(mut text: &[u8]) -> &OsStr {
    while let [rest @ .., b'\n' | b'\r'] = text {
        text = rest;
    }
    OsStr::from_bytes(text)
}

pub(crate) fn foreign(part: impl Into<PathBuf>, target: &Path) -> WorkspaceError {
    WorkspaceError::Foreign { part: part.into(), target: target.to_owned() }
}
