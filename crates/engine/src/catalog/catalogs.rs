//! The catalogs: those in files, and cached copies of those at URLs, refreshed by lookups of names.

use std::{path::PathBuf, sync::Arc, time::Duration};

use banger_api::{ApiError, Dirs, OperationKind};
use banger_image::Catalog;
use tokio::sync::{Mutex, MutexGuard};

use super::{
    files::{CatalogFiles, Layers},
    signed::{self, cache_path, is_fresh, read_cached},
};
use crate::{
    config::ConfigFiles,
    error::EngineError,
    operation::{Context, Events, OnDisconnect, Operations},
    remote::{is_retryable_elsewhere, registries},
    store::Store,
};

/// Maximum age of a copy that is used, without a refresh, for the names in it.
const MAX_AGE: Duration = Duration::from_secs(5 * 60);

/// The catalogs.
#[derive(Debug)]
pub struct Catalogs {
    files: CatalogFiles,
    store: Arc<Store>,
    config: Arc<ConfigFiles>,
    operations: Operations,
    /// Held while copies of catalogs at URLs are written or removed.
    refreshing: Mutex<()>,
}

impl Catalogs {
    pub(crate) fn new(
        dirs: &Dirs,
        store: Arc<Store>,
        config: Arc<ConfigFiles>,
        operations: Operations,
    ) -> Self {
        Self { files: CatalogFiles::new(dirs), store, config, operations, refreshing: Mutex::default() }
    }

    /// Downloads the catalogs at URLs.
    pub fn refresh(self: &Arc<Self>) -> Events {
        let catalogs = self.clone();
        let work = |context| async move { catalogs.refresh_older(Duration::ZERO, &context).await };
        self.operations.start(OperationKind::CatalogRefresh, "catalogs", OnDisconnect::Cancel, work)
    }

    /// Returns everything that can be fetched by name, according to files and cached copies.
    pub(crate) fn all(&self) -> Result<Arc<Catalog>, ApiError> {
        Ok(self.layers()?.all)
    }

    fn layers(&self) -> Result<Layers, ApiError> {
        self.files.layers(self.config.current()?.catalogs(), &self.store.signed_times()?)
    }

    /// Returns the merged catalog for the lookup of a name; `has` searches a catalog for it. Downloads the catalogs at
    /// URLs first, unless the user's or the system's file has the name, or a catalog has it and the copies are fresh.
    pub(crate) async fn for_lookup(
        &self,
        has: impl Fn(&Catalog) -> bool,
        context: &Context,
    ) -> Result<Arc<Catalog>, EngineError> {
        let layers = self.layers()?;
        if !has(&layers.local) {
            let max_age = if has(&layers.all) { MAX_AGE } else { Duration::ZERO };
            self.refresh_older(max_age, context).await?;
        }
        Ok(self.all()?)
    }

    /// Downloads the catalogs at URLs whose copies are older than `max_age`. Warns of an unreachable one, and keeps
    /// its copy.
    async fn refresh_older(&self, max_age: Duration, context: &Context) -> Result<(), EngineError> {
        let config = self.config.current()?;
        if config.catalogs().is_empty() {
            return Ok(());
        }
        let _one_at_a_time = context.unless_cancelled(async { Ok(self.refreshing.lock().await) }).await?;
        context.stage("fetch the catalogs").await;
        for source in config.catalogs() {
            let cache_dir = self.files.cache_dir().to_owned();
            if is_fresh(&cache_path(&cache_dir, source), max_age) {
                continue;
            }
            let (source, registries) = (source.clone(), registries(&config, Vec::new()));
            let refreshed = {
                let (source, cache_dir, store) = (source.clone(), cache_dir.clone(), self.store.clone());
                context
                    .blocking(move |context| {
                        signed::refresh_cached(&source, &registries, &cache_dir, &store, context)
                    })
                    .await
            };
            let problem = match refreshed.map_err(ApiError::from) {
                Ok(true) => continue,
                Ok(false) => signed::older_message(&source),
                Err(error) if is_retryable_elsewhere(error.kind) => error.message,
                Err(error) => return Err(error.into()),
            };
            let fallback = match read_cached(&cache_dir, &source, &self.store.signed_times()?) {
                Some(_) => "the cached copy is used",
                None => "its entries are not available",
            };
            context.warn(format!("{problem}; {fallback}")).await;
        }
        Ok(())
    }

    /// Waits until no copy is being written. No write starts until the guard is dropped.
    pub(crate) async fn lock_refresh(&self) -> MutexGuard<'_, ()> {
        self.refreshing.lock().await
    }

    /// Returns the directory of the cached copies, and the paths of the copies of configured catalogs.
    pub(crate) fn cached_files(&self) -> Result<(PathBuf, Vec<PathBuf>), ApiError> {
        let dir = self.files.cache_dir().to_owned();
        let used = self.config.current()?.catalogs().iter().map(|source| cache_path(&dir, source)).collect();
        Ok((dir, used))
    }
}
