//! Cleaning the caches: every removed file can be fetched or built again.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use banger_api::{Dirs, OperationKind, PruneCache, Pruned, PrunedKind, Size};

use crate::{
    catalog::Catalogs,
    error::EngineError,
    image::Images,
    kernel::Initrds,
    layout::{blobs, initrds},
    operation::{Context, Events, OnDisconnect, Operations},
    store::Store,
};

/// The caches: files kept only to save time.
#[derive(Debug)]
pub struct Cache {
    pub(crate) dirs: Arc<Dirs>,
    pub(crate) store: Arc<Store>,
    pub(crate) catalogs: Arc<Catalogs>,
    pub(crate) images: Arc<Images>,
    pub(crate) initrds: Arc<Initrds>,
    pub(crate) operations: Operations,
}

impl Cache {
    /// Removes layers kept from earlier pulls, boot initrds that no start would use, and copies of catalogs that are
    /// no longer configured.
    pub fn prune(self: &Arc<Self>, prune: PruneCache) -> Events {
        let cache = self.clone();
        let work = move |context| async move { cache.remove_unused(prune, &context).await };
        self.operations.start(OperationKind::CachePrune, "cache", OnDisconnect::Cancel, work)
    }

    async fn remove_unused(&self, prune: PruneCache, context: &Context) -> Result<Pruned, EngineError> {
        // A running pull needs its layers.
        let _no_pulls = context.unless_cancelled(async { Ok(self.images.lock_fetches().await) }).await?;
        let _no_refresh = context.unless_cancelled(async { Ok(self.catalogs.lock_refresh().await) }).await?;
        let mut used_initrds = Vec::new();
        for kernel in self.store.kernels()? {
            used_initrds.push(self.initrds.path(&kernel.id, context).await?);
        }
        let (catalog_dir, used_catalogs) = self.catalogs.cached_files()?;
        let (layers, initrds) = (blobs(&self.dirs), initrds(&self.dirs));
        context
            .blocking(move |context| -> Result<_, EngineError> {
                let layers = files_below(&layers)?;
                let mut initrds = files_below(&initrds)?;
                initrds.retain(|path| !used_initrds.contains(path));
                let mut catalogs = files_below(&catalog_dir)?;
                catalogs.retain(|path| !used_catalogs.contains(path));
                let mut kinds = Vec::new();
                for (kind, files) in [("layers", layers), ("boot initrds", initrds), ("catalogs", catalogs)] {
                    context.check()?;
                    kinds.push(remove(kind, &files, prune.dry_run)?);
                }
                let size = Size::bytes(kinds.iter().map(|kind| kind.size.as_bytes()).sum());
                Ok(Pruned { kinds, size, dry_run: prune.dry_run })
            })
            .await
    }
}

/// Returns all files below a directory, which need not exist.
fn files_below(dir: &Path) -> Result<Vec<PathBuf>, EngineError> {
    let mut paths = Vec::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(dir) = pending.pop() {
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            entries => entries.map_err(EngineError::file("read", &dir))?,
        };
        for entry in entries {
            let entry = entry.map_err(EngineError::file("read", &dir))?;
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_dir { &mut pending } else { &mut paths }.push(entry.path());
        }
    }
    Ok(paths)
}

fn remove(kind: &str, files: &[PathBuf], dry_run: bool) -> Result<PrunedKind, EngineError> {
    let (mut count, mut size) = (0, 0);
    for file in files {
        // A file that is already gone does not count.
        let Ok(meta) = fs::symlink_metadata(file) else { continue };
        if !dry_run {
            fs::remove_file(file).map_err(EngineError::file("remove", file))?;
        }
        count += 1;
        size += meta.blocks() * 512;
    }
    Ok(PrunedKind { kind: kind.to_owned(), files: count, size: Size::bytes(size) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pruning_removes_nested_files_and_a_dry_run_only_counts_them() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("sha256/deep")).unwrap();
        for name in ["sha256/a", "sha256/a.partial", "sha256/deep/b"] {
            fs::write(dir.path().join(name), vec![1; 5000]).unwrap();
        }
        std::os::unix::fs::symlink("/", dir.path().join("link")).unwrap();
        let paths = files_below(dir.path()).unwrap();
        let dry = remove("layers", &paths, true).unwrap();
        assert_eq!((dry.files, paths.iter().all(|file| file.symlink_metadata().is_ok())), (4, true));
        assert_eq!(remove("layers", &paths, false).unwrap(), dry);
        assert!(dry.size.as_bytes() >= 15_000);
        assert_eq!(files_below(dir.path()).unwrap(), [] as [PathBuf; 0]);
        assert_eq!(files_below(&dir.path().join("none")).unwrap(), [] as [PathBuf; 0]);
    }
}
