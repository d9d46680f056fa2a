//! Files that are replaced as a whole and are on the disk when a function returns.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, BufWriter, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
};

use tempfile::{Builder, NamedTempFile};

/// Prefix and suffix of a temporary file's name, around the file's name and the id of the process that writes it.
const PREFIX: &str = ".";
const SUFFIX: &str = ".new";

/// Replaces the file at `path` by what `write_content` writes, readable as `mode` says.
///
/// # Errors
/// Returns an error if the file cannot be written; the old file is then unchanged.
pub fn write(
    path: &Path,
    mode: u32,
    write_content: impl FnOnce(&mut BufWriter<&mut File>) -> io::Result<()>,
) -> io::Result<()> {
    temporary(path, mode, write_content)?.persist(path).map_err(|error| error.error)?;
    sync_dir(parent(path))
}

/// Creates the file at `path` with `content`; returns false if it exists.
///
/// # Errors
/// Returns an error if the file cannot be written.
pub fn create(path: &Path, mode: u32, content: &[u8]) -> io::Result<bool> {
    match temporary(path, mode, |out| out.write_all(content))?.persist_noclobber(path) {
        Ok(_) => sync_dir(parent(path)).map(|()| true),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error.error),
    }
}

/// Removes the file at `path`, if it exists.
///
/// # Errors
/// Returns an error if it cannot be removed.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.and_then(|()| sync_dir(parent(path))),
    }
}

/// Creates the directory `path` and missing parents, for this user alone.
///
/// # Errors
/// Returns an error if one cannot be created.
pub fn create_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        create_dir(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        // Another process may have created it just now.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        created => created.and_then(|()| sync_dir(parent(path))),
    }
}

/// Writes the entries of the directory `dir`, of those in it and of its parent to the disk, if it exists.
///
/// # Errors
/// Returns an error if one cannot be read or written.
pub fn sync_dirs(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(());
        }
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_dirs(&entry.path())?;
        }
    }
    sync_dir(dir)?;
    sync_dir(parent(dir))
}

/// Returns a temporary file beside `path` with all of its content on the disk.
fn temporary(
    path: &Path,
    mode: u32,
    write_content: impl FnOnce(&mut BufWriter<&mut File>) -> io::Result<()>,
) -> io::Result<NamedTempFile> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let (dir, prefix) = (parent(path), format!("{PREFIX}{name}."));
    remove_abandoned(dir, &prefix);
    let prefix = format!("{prefix}{}.", std::process::id());
    let mut file = Builder::new()
        .prefix(&prefix)
        .suffix(SUFFIX)
        .permissions(fs::Permissions::from_mode(mode))
        .tempfile_in(dir)?;
    let mut out = BufWriter::new(file.as_file_mut());
    write_content(&mut out)?;
    out.flush()?;
    drop(out);
    // Whatever the process's umask is.
    file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// Removes temporary files of killed processes.
fn remove_abandoned(dir: &Path, prefix: &str) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let rest = name.to_str().and_then(|name| name.strip_prefix(prefix)?.strip_suffix(SUFFIX));
        let pid = rest.and_then(|rest| rest.split_once('.')?.0.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            // It does no harm if it stays.
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new("."))
}

/// Writes the entries of the directory `dir` to the disk.
///
/// # Errors
/// Returns an error if it cannot be read or written.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_file_is_replaced_only_by_complete_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write(&path, 0o640, |out| out.write_all(b"old")).unwrap();
        let failed = write(&path, 0o640, |out| {
            out.write_all(b"new")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"old".to_vec(), 0o640));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(!create(&path, 0o600, b"other").unwrap());
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(create(&path, 0o600, b"other").unwrap());
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"other".to_vec(), 0o600));
    }

    #[test]
    fn temporary_files_of_killed_processes_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let ended = {
            let mut child = std::process::Command::new("true").spawn().unwrap();
            child.wait().unwrap();
            child.id()
        };
        let own = std::process::id();
        for name in [format!(".a.{ended}.x.new"), format!(".a.{own}.x.new"), format!(".b.{ended}.x.new")] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        write(&dir.path().join("a"), 0o600, |out| out.write_all(b"a")).unwrap();
        let entries = fs::read_dir(dir.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        let mut kept = [format!(".a.{own}.x.new"), format!(".b.{ended}.x.new"), "a".to_owned()];
        kept.sort();
        assert_eq!(names, kept);
    }

    #[test]
    fn directories_are_created_for_this_user_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/c");
        create_dir(&path).unwrap();
        create_dir(&path).unwrap();
        assert_eq!(["a", "a/b", "a/b/c"].map(|name| mode(&dir.path().join(name))), [0o700; 3]);
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(create_dir(&dir.path().join("file")).is_err());
    }
}
