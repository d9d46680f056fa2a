//! Catalogs at URLs: asked for what they have, and kept once their signatures have been verified.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use banger_api::{ApiError, Check, Config, config::CatalogUrl};
use banger_image::{CATALOG_MAX, Catalog, Registries, SignedCatalog, Silent};
use sha2::{Digest as _, Sha256};

use crate::{
    catalog::may_be_elsewhere, config::read_up_to, error::EngineError, host::Host, operation::Context,
    pull::registries_of,
};

/// How long a copy does for a name that is in it.
const MAX_AGE: Duration = Duration::from_secs(5 * 60);

/// Longest copy: a catalog with its signature above it.
const COPY_MAX: u64 = CATALOG_MAX + (16 << 10);

/// Where in `folder` the copy of a catalog is: another key's is another.
pub(crate) fn copy_of(folder: &Path, wanted: &CatalogUrl) -> PathBuf {
    let digest = Sha256::digest(format!("{}\n{}", wanted.url, wanted.key));
    let name: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    folder.join(name)
}

/// What the copy in `folder` says; one that is broken is as good as none.
pub(crate) fn read_copy(folder: &Path, wanted: &CatalogUrl) -> Option<Catalog> {
    let path = copy_of(folder, wanted);
    let bytes = read_up_to(&path, COPY_MAX).ok()?;
    let read = signed(wanted).read(&bytes);
    read.inspect_err(|error| tracing::warn!(path = %path.display(), %error, "not used")).ok()
}

/// Asks all the catalogs at URLs, and tells what came of it; what they have is not kept.
pub(crate) async fn check(config: &Config, folder: &Path) -> Vec<Check> {
    let registries = registries_of(config, Vec::new());
    let mut checks = Vec::new();
    for wanted in config.catalogs() {
        let (asked, registries) = (wanted.clone(), registries.clone());
        let fetch = move || fetch(&asked, &registries, &std::env::temp_dir(), &Silent);
        let fetched = tokio::task::spawn_blocking(fetch).await.unwrap_or(Err(EngineError::Cancelled));
        let title = "signed catalog";
        checks.push(match fetched.map_err(ApiError::from) {
            Ok((bytes, _)) if is_older(&bytes, folder, wanted) => {
                let hint = "its last copy is used; sign it anew if it is what is meant";
                Check::warn(title, older(wanted), hint)
            }
            Ok((_, catalog)) => {
                let (images, kernels) = (catalog.images.len(), catalog.kernels.len());
                Check::pass(title, format!("{}: {images} images, {kernels} kernels", wanted.url))
            }
            Err(error) if may_be_elsewhere(error.kind) => {
                let copy = if read_copy(folder, wanted).is_some() {
                    "its last copy is used"
                } else {
                    "there is no copy of it"
                };
                Check::warn(title, error.message, format!("until it answers, {copy}"))
            }
            Err(error) => Check::fail(title, error.message, error.hint.unwrap_or_default()),
        });
    }
    checks
}

fn signed(wanted: &CatalogUrl) -> SignedCatalog<'_> {
    SignedCatalog { url: &wanted.url, key: &wanted.key }
}

/// The catalog as it is kept, and as it is read.
fn fetch(
    wanted: &CatalogUrl,
    registries: &Registries,
    work: &Path,
    progress: &dyn banger_image::Progress,
) -> Result<(Vec<u8>, Catalog), EngineError> {
    let bytes = signed(wanted).fetch(registries, work, progress)?;
    let catalog = signed(wanted).read(&bytes)?;
    Ok((bytes, catalog))
}

impl Host {
    /// The catalog to look for a name in that `has` finds. Catalogs at URLs are asked unless the user's or the host's own
    /// has it, or a copy that is new.
    pub(crate) async fn catalog_with(
        &self,
        has: impl Fn(&Catalog) -> bool,
        context: &Context,
    ) -> Result<Arc<Catalog>, EngineError> {
        let config = self.config()?;
        let layers = self.catalog.layers(config.catalogs())?;
        if !has(&layers.own) {
            let max_age = if has(&layers.all) { MAX_AGE } else { Duration::ZERO };
            self.refresh_catalogs(max_age, context).await?;
        }
        Ok(self.catalog()?)
    }

    /// Asks the catalogs at URLs whose copies are older than `max_age`. One that cannot be reached is told of, and its copy
    /// stays.
    pub(crate) async fn refresh_catalogs(
        &self,
        max_age: Duration,
        context: &Context,
    ) -> Result<(), EngineError> {
        let config = self.config()?;
        if config.catalogs().is_empty() {
            return Ok(());
        }
        let folder = self.catalog.copies().to_owned();
        let _one_at_a_time = context.unless_cancelled(async { Ok(self.refreshing.lock().await) }).await?;
        context.stage("ask the catalogs").await;
        for wanted in config.catalogs() {
            let copy = copy_of(&folder, wanted);
            if is_younger(&copy, max_age) {
                continue;
            }
            let (asked, work) = (wanted.clone(), folder.clone());
            let registries = registries_of(&config, Vec::new());
            let kept = context
                .blocking(move |context| -> Result<bool, EngineError> {
                    crate::dirs::private(&work)?;
                    let (bytes, _) = fetch(&asked, &registries, &work, context)?;
                    if is_older(&bytes, &work, &asked) {
                        return Ok(false);
                    }
                    keep(&bytes, &work, &copy).map(|()| true)
                })
                .await;
            let problem = match kept.map_err(ApiError::from) {
                Ok(true) => continue,
                Ok(false) => older(wanted),
                Err(error) if may_be_elsewhere(error.kind) => error.message,
                Err(error) => return Err(error.into()),
            };
            let copy = match read_copy(&folder, wanted) {
                Some(_) => "its last copy is used",
                None => "what it has is not known",
            };
            context.warn(format!("{problem}: {copy}")).await;
        }
        Ok(())
    }
}

/// Whether what has come was signed before the copy in `folder`: a mirror must not bring back what was withdrawn.
fn is_older(signed_bytes: &[u8], folder: &Path, wanted: &CatalogUrl) -> bool {
    let signed_at = |bytes: &[u8]| signed(wanted).signed_at(bytes);
    let copy = read_up_to(&copy_of(folder, wanted), COPY_MAX).ok();
    let copied = copy.and_then(|copy| signed_at(&copy));
    copied.zip(signed_at(signed_bytes)).is_some_and(|(copied, come)| come < copied)
}

fn older(wanted: &CatalogUrl) -> String {
    format!("what {} has was signed before the copy that is here", wanted.url)
}

fn is_younger(path: &Path, age: Duration) -> bool {
    let written = fs::metadata(path).and_then(|meta| meta.modified()).ok();
    // One of the future is of no known age.
    written.and_then(|written| written.elapsed().ok()).is_some_and(|elapsed| elapsed < age)
}

fn keep(bytes: &[u8], folder: &Path, copy: &Path) -> Result<(), EngineError> {
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(EngineError::file("write to", folder))?;
    file.write_all(bytes).map_err(EngineError::file("write", copy))?;
    file.persist(copy).map_err(|error| EngineError::file("write", copy)(error.error))?;
    Ok(())
}
