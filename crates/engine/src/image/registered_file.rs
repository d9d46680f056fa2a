//! The user's files that are registered as images: inspected, and compared with their state at registration.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
};

use banger_api::{ApiError, ErrorKind, Remedy, Size};

use crate::{error::EngineError, store::RegisteredFile};

/// Returns a registered file's problem, if it is gone or has changed.
pub(crate) fn find_change(file: &RegisteredFile) -> Result<Option<&'static str>, EngineError> {
    match inspect(&file.path) {
        Ok(current) if current == *file => Ok(None),
        Ok(_) => Ok(Some("has changed since it was registered")),
        Err(EngineError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(Some("is gone"))
        }
        Err(error) => Err(error),
    }
}

pub(super) fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_symlink())
}

pub(super) fn allocated_size(path: &Path) -> Size {
    Size::bytes(fs::metadata(path).map_or(0, |meta| meta.blocks() * 512))
}

/// Returns the file's current state.
pub(super) fn inspect(path: &Path) -> Result<RegisteredFile, EngineError> {
    if !path.is_absolute() {
        let message = format!("{} is not an absolute path", path.display());
        return Err(ApiError::new(ErrorKind::Invalid, message).into());
    }
    // Only a regular file: opening anything else could block forever.
    let meta = fs::metadata(path).map_err(EngineError::file("stat", path))?;
    if !meta.is_file() {
        return Err(
            ApiError::new(ErrorKind::Invalid, format!("{} is not a regular file", path.display())).into()
        );
    }
    File::open(path).map_err(EngineError::file("open", path))?;
    if meta.len() % 512 != 0 {
        let message =
            format!("the size of {} is {} bytes, which is not a multiple of 512", path.display(), meta.len());
        return Err(ApiError::new(ErrorKind::Invalid, message).into());
    }
    Ok(RegisteredFile {
        path: path.to_owned(),
        device: meta.dev(),
        inode: meta.ino(),
        size: meta.len(),
        mtime: (meta.mtime(), meta.mtime_nsec()),
    })
}

pub(super) fn changed_error(path: &Path, problem: &str) -> ApiError {
    ApiError::new(ErrorKind::Busy, format!("{} {problem}", path.display())).remedy(Remedy::StopWriting)
}
