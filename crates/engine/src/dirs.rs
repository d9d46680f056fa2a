//! Private directories, and waiting for files to appear in them.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::Path,
};

use banger_api::{ApiError, ErrorKind, Remedy};
use banger_sys::Watched;
use rustix::fs::inotify;

use crate::{error::EngineError, files::sync};

/// Creates `path` and its missing parents for this user only (0700). An existing `path` must be a real directory of
/// this user, and is closed to others: in a shared place such as `/tmp`, another user may have put a link or a
/// directory under that name.
pub(crate) fn create_private(path: &Path) -> Result<(), EngineError> {
    match fs::DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(EngineError::file("create", path)(error)),
    }
    if is_private(path)? {
        return Ok(());
    }
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .map_err(EngineError::file("change the permissions of", path))
}

/// As [`create_private`], and syncs new directories' names to the disk.
pub(crate) fn create_durably(path: &Path) -> Result<(), EngineError> {
    let missing: Vec<_> = path.ancestors().take_while(|dir| !dir.exists()).collect();
    create_private(path)?;
    missing.into_iter().filter_map(Path::parent).try_for_each(sync)
}

/// Returns whether `path` is a directory of this user that is closed to others. False if it is missing, or is open to
/// others until its next use closes it.
///
/// # Errors
/// Returns an error if `path` is anything else.
pub(crate) fn is_private(path: &Path) -> Result<bool, EngineError> {
    let meta = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        meta => meta.map_err(EngineError::file("stat", path))?,
    };
    let problem = if meta.file_type().is_symlink() {
        "is a symbolic link"
    } else if !meta.is_dir() {
        "is not a directory"
    } else if meta.uid() != rustix::process::getuid().as_raw() {
        "belongs to another user"
    } else {
        return Ok(meta.mode() & 0o077 == 0);
    };
    let error =
        ApiError::new(ErrorKind::NotPermitted, format!("cannot use {}: it {problem}", path.display()));
    Err(error.remedy(Remedy::ReplaceDirectory).into())
}

/// Waits until a file exists at `path`. Its directory must exist.
pub(crate) async fn wait_until_exists(path: &Path) -> Result<(), EngineError> {
    let failed = || EngineError::file("wait for", path);
    let dir = path.parent().unwrap_or(Path::new("/"));
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
        .map_err(|error| failed()(error.into()))?;
    inotify::add_watch(&watch, dir, inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO)
        .map_err(|error| failed()(error.into()))?;
    let watch = Watched::new(watch).map_err(failed())?;
    // The watch was added before this check, so no event between the check and the wait is missed.
    while !path.exists() {
        let mut ready = watch.readable().await.map_err(failed())?;
        let mut events = [std::mem::MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&watch, &mut events);
        while reader.next().is_ok() {}
        ready.clear_ready();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_directory_is_made_private_and_links_and_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        create_private(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        create_private(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        std::os::unix::fs::symlink(&path, dir.path().join("link")).unwrap();
        let error = create_private(&dir.path().join("link")).unwrap_err().to_string();
        assert!(error.contains("is a symbolic link"), "{error}");
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(
            create_private(&dir.path().join("file")).unwrap_err().to_string().contains("is not a directory")
        );
    }

    #[tokio::test]
    async fn wait_until_exists_returns_when_the_file_appears() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let (result, ()) = tokio::join!(wait_until_exists(&path), async {
            tokio::task::yield_now().await;
            fs::write(dir.path().join("other"), "").unwrap();
            fs::write(&path, "").unwrap();
        });
        result.unwrap();
        wait_until_exists(&path).await.unwrap();
    }
}
