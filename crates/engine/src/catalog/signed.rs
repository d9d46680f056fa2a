//! Catalogs at URLs: downloaded, and cached once their signatures are verified.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use banger_api::{ApiError, Check, Config, ErrorKind, Remedy, config::CatalogUrl};
use banger_image::{Catalog, MAX_CATALOG, Registries, SignedCatalog, Silent};
use sha2::{Digest as _, Sha256};

use crate::{
    config::read_up_to,
    dirs,
    error::EngineError,
    remote::{is_retryable_elsewhere, registries},
};

/// Maximum length of a copy, in bytes: a catalog with its signature above it.
const MAX_CACHED_CATALOG: u64 = MAX_CATALOG + (16 << 10);

/// Returns the path of a catalog's copy in a directory. It depends on the URL and the key.
pub(crate) fn cache_path(dir: &Path, source: &CatalogUrl) -> PathBuf {
    let digest = Sha256::digest(format!("{}\n{}", source.url, source.key));
    let name: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    dir.join(name)
}

/// Reads a catalog's copy from a directory; ignores and logs a broken one.
pub(super) fn read_cached(dir: &Path, source: &CatalogUrl) -> Option<Catalog> {
    let path = cache_path(dir, source);
    let bytes = read_up_to(&path, MAX_CACHED_CATALOG).ok()?;
    let read = signed(source).read(&bytes);
    read.inspect_err(|error| tracing::warn!(path = %path.display(), %error, "a cached catalog is not used"))
        .ok()
}

/// Downloads all catalogs at URLs and reports the results, without caching the catalogs.
pub(crate) async fn check(config: &Config, dir: &Path) -> Vec<Check> {
    let registries = registries(config, Vec::new());
    let mut checks = Vec::new();
    for source in config.catalogs() {
        let (owned_source, registries) = (source.clone(), registries.clone());
        let fetch = move || fetch(&owned_source, &registries, &std::env::temp_dir(), &Silent);
        let fetched = tokio::task::spawn_blocking(fetch).await.unwrap_or(Err(EngineError::Cancelled));
        let title = "signed catalog";
        checks.push(match fetched.map_err(ApiError::from) {
            Ok((bytes, _)) if is_older(&bytes, dir, source) => {
                let message = format!("{}; the cached copy is used", older_message(source));
                let error = ApiError::new(ErrorKind::Invalid, message);
                Check::warn(title, error.remedy(Remedy::CheckCatalogSignature))
            }
            Ok((_, catalog)) => {
                let (images, kernels) = (catalog.images.len(), catalog.kernels.len());
                Check::pass(title, format!("{}: {images} images, {kernels} kernels", source.url))
            }
            Err(mut error) if is_retryable_elsewhere(error.kind) => {
                let fallback = if read_cached(dir, source).is_some() {
                    "the cached copy is used"
                } else {
                    "there is no cached copy"
                };
                error.message.push_str("; ");
                error.message.push_str(fallback);
                Check::warn(title, error)
            }
            Err(error) => Check::fail(title, error),
        });
    }
    checks
}

fn signed(source: &CatalogUrl) -> SignedCatalog<'_> {
    SignedCatalog { url: &source.url, key: &source.key }
}

/// Downloads a catalog; returns the bytes to cache and the catalog read from them.
fn fetch(
    source: &CatalogUrl,
    registries: &Registries,
    work: &Path,
    progress: &dyn banger_image::Progress,
) -> Result<(Vec<u8>, Catalog), EngineError> {
    let bytes = signed(source).fetch(registries, work, progress)?;
    let catalog = signed(source).read(&bytes)?;
    Ok((bytes, catalog))
}

/// Downloads a catalog and replaces its copy. Returns false, and keeps the copy, if that was signed later.
pub(super) fn refresh_cached(
    source: &CatalogUrl,
    registries: &Registries,
    dir: &Path,
    progress: &dyn banger_image::Progress,
) -> Result<bool, EngineError> {
    dirs::create_private(dir)?;
    let (bytes, _) = fetch(source, registries, dir, progress)?;
    if is_older(&bytes, dir, source) {
        return Ok(false);
    }
    write_cache(&bytes, dir, &cache_path(dir, source))?;
    Ok(true)
}

/// Returns whether the downloaded catalog was signed before the copy: a mirror must not restore withdrawn entries.
fn is_older(signed_bytes: &[u8], dir: &Path, source: &CatalogUrl) -> bool {
    let signed_at = |bytes: &[u8]| signed(source).signed_at(bytes);
    let cached = read_up_to(&cache_path(dir, source), MAX_CACHED_CATALOG).ok();
    let cached_at = cached.and_then(|cached| signed_at(&cached));
    cached_at.zip(signed_at(signed_bytes)).is_some_and(|(cached_at, downloaded_at)| downloaded_at < cached_at)
}

pub(super) fn older_message(source: &CatalogUrl) -> String {
    format!("the catalog at {} has an older signature than the cached copy", source.url)
}

pub(super) fn is_fresh(path: &Path, age: Duration) -> bool {
    let written = fs::metadata(path).and_then(|meta| meta.modified()).ok();
    // The age of a copy from the future is unknown.
    written.and_then(|written| written.elapsed().ok()).is_some_and(|elapsed| elapsed < age)
}

fn write_cache(bytes: &[u8], dir: &Path, path: &Path) -> Result<(), EngineError> {
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(EngineError::file("write to", dir))?;
    file.write_all(bytes).map_err(EngineError::file("write", path))?;
    file.persist(path).map_err(|error| EngineError::file("write", path)(error.error))?;
    Ok(())
}
