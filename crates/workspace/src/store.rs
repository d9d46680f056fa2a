//! Stores pulled objects and refs in the user's repository. Nothing but refs below one prefix changes there.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::{
    Repository, WorkspaceError,
    budget::Budget,
    error::{reading, writing},
    git::{run, unexpected_output},
};

/// Refs by name, each with its object.
pub(crate) type Refs = BTreeMap<String, String>;

/// Returns the refs of the repository.
pub(crate) fn refs(repository: &Repository) -> Result<Refs, WorkspaceError> {
    let command = repository.command(["for-each-ref", "--format=%(objectname) %(refname)"]);
    let listed = run(command, &[])?;
    let lines = listed.split(|byte| *byte == b'\n').map(|line| String::from_utf8_lossy(line));
    Ok(lines.filter_map(|line| line.split_once(' ').map(|(id, name)| (name.into(), id.into()))).collect())
}

/// Sets the refs `kept` and deletes `removed`, then sets `changed`, all with reflogs.
///
/// `removed` may be directories of `changed`.
pub(crate) fn update_refs(
    repository: &Repository,
    kept: &Refs,
    removed: &Refs,
    changed: &Refs,
) -> Result<(), WorkspaceError> {
    let set = |(name, id): (&String, &String)| format!("update {name} {id}\n");
    let delete = |(name, id): (&String, &String)| format!("delete {name} {id}\n");
    let first: String = kept.iter().map(set).chain(removed.iter().map(delete)).collect();
    let second: String = changed.iter().map(set).collect();
    // Two transactions: git refuses a ref that has the name of a directory which the same transaction removes.
    for changes in [first, second] {
        if changes.is_empty() {
            continue;
        }
        #[rustfmt::skip]
        let arguments = [
            "-c", "core.fsync=reference", "update-ref", "--no-deref", "--create-reflog",
            "-m", "banger vm workspace pull", "--stdin",
        ];
        run(repository.command(arguments), changes.as_bytes())?;
    }
    // The VM with the only other copy may be deleted next. git syncs files, but not their directories.
    let dir = repository.common_dir.join("refs/banger");
    banger_durable::sync_dirs(&dir).map_err(writing(dir))?;
    // A file system that merges two names would have lost one.
    let stored = refs(repository)?;
    match kept.iter().chain(changed).find(|(name, id)| stored.get(*name) != Some(*id)) {
        Some((name, _)) => Err(unexpected_output("update-ref", format!("{name} was not stored")).into()),
        None => Ok(()),
    }
}

/// Stores all objects of the object directory `from` in `to`, each pack before its index.
pub(crate) fn store_objects(from: &Path, to: &Path, budget: &Budget) -> Result<(), WorkspaceError> {
    for dir in files(from)? {
        let name = dir.file_name().unwrap_or_default();
        let is_object_dir = name == "pack" || name.len() == 2;
        if !is_object_dir || !dir.is_dir() {
            continue;
        }
        let target = to.join(name);
        fs::create_dir_all(&target).map_err(writing(&target))?;
        let mut all = files(&dir)?;
        let is_pack = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "pack" || kind == "idx");
        all.retain(|path| name != "pack" || is_pack(path));
        all.sort_by_key(|path| path.extension() == Some(OsStr::new("idx")));
        all.iter().try_for_each(|file| store(file, &target, budget))?;
        banger_durable::sync_dir(&target).map_err(writing(&target))?;
    }
    // The refs that name the objects must not outlive them, in directories that may be new.
    banger_durable::sync_dir(to).map_err(writing(to))
}

fn files(dir: &Path) -> Result<Vec<PathBuf>, WorkspaceError> {
    let entries = fs::read_dir(dir).map_err(reading(dir))?;
    entries.map(|entry| Ok(entry.map_err(reading(dir))?.path())).collect()
}

/// Stores `file` in `dir`, atomically and read-only, unless it exists.
fn store(file: &Path, dir: &Path, budget: &Budget) -> Result<(), WorkspaceError> {
    let target = dir.join(file.file_name().unwrap_or_default());
    if target.exists() {
        return Ok(());
    }
    let source = File::open(file).map_err(reading(file))?;
    let prepared = source.set_permissions(Permissions::from_mode(0o444)).and_then(|()| source.sync_all());
    prepared.map_err(writing(file))?;
    // Fails if the file system is another one, or has no links.
    if fs::hard_link(file, &target).is_ok() {
        return Ok(());
    }
    budget.check_space(dir, source.metadata().map_err(reading(file))?.len())?;
    let copied = || -> io::Result<()> {
        let mut copy = tempfile::Builder::new().prefix("tmp_obj_banger_").tempfile_in(dir)?;
        io::copy(&mut &source, copy.as_file_mut())?;
        copy.as_file().set_permissions(Permissions::from_mode(0o444))?;
        copy.as_file().sync_all()?;
        copy.persist(&target).map_err(|error| error.error)?;
        Ok(())
    };
    copied().map_err(writing(&target))
}
