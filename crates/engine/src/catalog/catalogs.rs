//! The catalogs: those in files, and cached copies of those at URLs, refreshed by lookups of names.

use std::{path::PathBuf, sync::Arc, time::Duration};

use banger_api::{ApiError, Dirs, OperationKind};
use banger_image::Catalog;
use tokio::sync::{Mutex, MutexGuard};

use super::{
    files::CatalogFiles,
    signed::{self, copy_of, is_younger, read_copy},
};
use crate::{
    config::ConfigFiles,
    error::EngineError,
    operation::{Context, Events, OnHangUp, Operations},
    remote::{may_be_elsewhere, registries},
};

/// Maximum age of a copy that is used, without a refresh, for the names in it.
const MAX_AGE: Duration = Duration::from_secs(5 * 60);

/// The catalogs.
#[derive(Debug)]
pub struct Catalogs {
    files: CatalogFiles,
    config: Arc<ConfigFiles>,
    operations: Operations,
    /// Held while copies of catalogs at URLs are written or removed.
    refreshing: Mutex<()>,
}

impl Catalogs {
    pub(crate) fn new(dirs: &Dirs, config: Arc<ConfigFiles>, operations: Operations) -> Self {
        Self { files: CatalogFiles::of(dirs), config, operations, refreshing: Mutex::default() }
    }

    /// Downloads the catalogs at URLs.
    pub fn refresh(self: &Arc<Self>) -> Events {
        let catalogs = self.clone();
        let work = |context| async move { catalogs.refresh_older(Duration::ZERO, &context).await };
        self.operations.start(OperationKind::CatalogRefresh, "catalogs", OnHangUp::Cancel, work)
    }

    /// Returns everything that can be fetched by name, according to files and cached copies.
    pub(crate) fn all(&self) -> Result<Arc<Catalog>, ApiError> {
        Ok(self.files.layers(self.config.now()?.catalogs())?.all)
    }

    /// Returns the merged catalog for the lookup of a name; `has` searches a catalog for it. Downloads the catalogs at
    /// URLs first, unless the user's or the system's file has the name, or a catalog has it and the copies are fresh.
    pub(crate) async fn with(
        &self,
        has: impl Fn(&Catalog) -> bool,
        context: &Context,
    ) -> Result<Arc<Catalog>, EngineError> {
        let layers = self.files.layers(self.config.now()?.catalogs())?;
        if !has(&layers.own) {
            let max_age = if has(&layers.all) { MAX_AGE } else { Duration::ZERO };
            self.refresh_older(max_age, context).await?;
        }
        Ok(self.all()?)
    }

    /// Downloads the catalogs at URLs whose copies are older than `max_age`. Warns of an unreachable one, and keeps
    /// its copy.
    async fn refresh_older(&self, max_age: Duration, context: &Context) -> Result<(), EngineError> {
        let config = self.config.now()?;
        if config.catalogs().is_empty() {
            return Ok(());
        }
        let _one_at_a_time = context.unless_cancelled(async { Ok(self.refreshing.lock().await) }).await?;
        context.stage("fetch the catalogs").await;
        for wanted in config.catalogs() {
            let copies = self.files.copies().to_owned();
            if is_younger(&copy_of(&copies, wanted), max_age) {
                continue;
            }
            let (wanted, registries) = (wanted.clone(), registries(&config, Vec::new()));
            let refreshed = {
                let (wanted, copies) = (wanted.clone(), copies.clone());
                context
                    .blocking(move |context| signed::refresh_copy(&wanted, &registries, &copies, context))
                    .await
            };
            let problem = match refreshed.map_err(ApiError::from) {
                Ok(true) => continue,
                Ok(false) => signed::older(&wanted),
                Err(error) if may_be_elsewhere(error.kind) => error.message,
                Err(error) => return Err(error.into()),
            };
            let copy = match read_copy(&copies, &wanted) {
                Some(_) => "the cached copy is used",
                None => "its entries are not available",
            };
            context.warn(format!("{problem}; {copy}")).await;
        }
        Ok(())
    }

    /// Waits until no copy is being written. No write starts until the guard is dropped.
    pub(crate) async fn not_refreshing(&self) -> MutexGuard<'_, ()> {
        self.refreshing.lock().await
    }

    /// Returns the directory of the cached copies, and the paths of the copies of configured catalogs.
    pub(crate) fn copies(&self) -> Result<(PathBuf, Vec<PathBuf>), ApiError> {
        let folder = self.files.copies().to_owned();
        let used = self.config.now()?.catalogs().iter().map(|wanted| copy_of(&folder, wanted)).collect();
        Ok((folder, used))
    }
}
