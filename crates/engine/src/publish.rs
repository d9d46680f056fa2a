//! Publishing: the only way to add an image or a kernel.
//!
//! Files are written into the directory `ID.partial` and synced, and the directory is renamed to `ID`. The row in the
//! store is written last and makes it an image or a kernel. After a crash before that, the directory has no row, and
//! the next start removes it.

use std::path::{Path, PathBuf};

use banger_api::Id;

use crate::{
    dirs,
    error::EngineError,
    files::{remove_dir, sync},
    random::random_id,
};

/// A directory that is not published yet. Dropping it removes the directory.
#[derive(Debug)]
pub(crate) struct Staged {
    id: Id,
    /// The `images` or `kernels` directory.
    parent: PathBuf,
    dir: RemovedOnDrop,
}

impl Staged {
    /// Creates a directory with a new id in `parent`.
    pub(crate) fn create(parent: PathBuf) -> Result<Self, EngineError> {
        let id = random_id();
        let path = parent.join(format!("{id}.partial"));
        dirs::create_durably(&parent)?;
        dirs::create_private(&path)?;
        Ok(Self { id, parent, dir: RemovedOnDrop(Some(path)) })
    }

    pub(crate) fn id(&self) -> &Id {
        &self.id
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Renames the directory durably, then calls `insert` to write the row. Its files must be synced already.
    pub(crate) fn publish<T, E>(mut self, insert: impl FnOnce() -> Result<T, E>) -> Result<T, EngineError>
    where
        EngineError: From<E>,
    {
        let partial = self.path().to_owned();
        sync(&partial)?;
        let published = self.parent.join(self.id.as_str());
        std::fs::rename(&partial, &published).map_err(EngineError::file("rename", &partial))?;
        self.dir.0 = Some(published);
        sync(&self.parent)?;
        let row = insert()?;
        self.dir.0 = None;
        Ok(row)
    }
}

/// A directory that is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct RemovedOnDrop(Option<PathBuf>);

impl RemovedOnDrop {
    /// Creates the directory for this user only.
    pub(crate) fn create(path: PathBuf) -> Result<Self, EngineError> {
        dirs::create_private(&path)?;
        Ok(Self(Some(path)))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.as_deref().unwrap_or(Path::new(""))
    }
}

impl Drop for RemovedOnDrop {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && let Err(error) = remove_dir(path)
        {
            tracing::warn!(%error, "a directory was not removed; the next start removes it");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_published_directories_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let names = || {
            let entries = fs::read_dir(dir.path()).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
        };
        let stage = || Staged::create(dir.path().to_owned()).unwrap();
        drop(stage());
        let refused = stage().publish(|| Err::<(), _>(EngineError::Cancelled));
        assert!(refused.is_err());
        assert_eq!(names(), [""; 0]);

        let staged = stage();
        let id = staged.id().to_string();
        assert_eq!(names(), [format!("{id}.partial")]);
        fs::write(staged.path().join("file"), "content").unwrap();
        let seen = staged.publish(|| Ok::<_, EngineError>(names())).unwrap();
        assert_eq!((seen, names()), (vec![id.clone()], vec![id.clone()]));
        assert_eq!(fs::read(dir.path().join(id).join("file")).unwrap(), b"content");
    }
}
