//! Catalogs at URLs: downloaded, and cached once their signatures are verified.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use banger_api::{ApiError, Check, Config, ErrorKind, Remedy, config::CatalogUrl};
use banger_image::{MAX_CATALOG, Registries, SignedCatalog, Silent, VerifiedCatalog};
use sha2::{Digest as _, Sha256};

use crate::{
    config::read_up_to,
    dirs,
    error::EngineError,
    remote::{is_retryable_elsewhere, registries},
    store::{SignedTimes, Store},
};

/// Maximum length of a copy, in bytes: a catalog with its signature above it.
const MAX_CACHED_CATALOG: u64 = MAX_CATALOG + (16 << 10);

/// Returns the path of a catalog's copy in a directory. It depends on the URL and the key.
pub(crate) fn cache_path(dir: &Path, source: &CatalogUrl) -> PathBuf {
    let digest = Sha256::digest(format!("{}\n{}", source.url, source.key));
    let name: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    dir.join(name)
}

/// Reads a catalog's copy from a directory. Ignores and logs a broken copy, and a copy that is older than the newest
/// version according to `times`.
pub(super) fn read_cached(dir: &Path, source: &CatalogUrl, times: &SignedTimes) -> Option<VerifiedCatalog> {
    let path = cache_path(dir, source);
    let bytes = read_up_to(&path, MAX_CACHED_CATALOG).ok()?;
    let read = signed(source).read(&bytes);
    let read = read
        .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "a cached catalog is not used"));
    read.ok().filter(|copy| copy.signed_at >= times.newest(source))
}

/// Downloads all catalogs at URLs and reports the results, without caching the catalogs.
pub(crate) async fn check(config: &Config, dir: &Path, times: &SignedTimes) -> Vec<Check> {
    let registries = registries(config, Vec::new());
    let mut checks = Vec::new();
    for source in config.catalogs() {
        let (owned_source, registries) = (source.clone(), registries.clone());
        let fetch = move || {
            let fetched = signed(&owned_source).fetch(&registries, &std::env::temp_dir(), &Silent);
            fetched.map_err(EngineError::from)
        };
        let fetched = tokio::task::spawn_blocking(fetch).await.unwrap_or(Err(EngineError::Cancelled));
        let copy = read_cached(dir, source, times);
        let fallback = match &copy {
            Some(_) => "the cached copy is used",
            None => "there is no cached copy",
        };
        let newest = copy.map_or(0, |copy| copy.signed_at).max(times.newest(source));
        let title = "signed catalog";
        checks.push(match fetched.map_err(ApiError::from) {
            Ok((_, verified)) if verified.signed_at < newest => {
                let message = format!("{}; {fallback}", older_message(source));
                let error = ApiError::new(ErrorKind::Invalid, message);
                Check::warn(title, error.remedy(Remedy::CheckCatalogSignature))
            }
            Ok((_, VerifiedCatalog { catalog, .. })) => {
                let (images, kernels) = (catalog.images.len(), catalog.kernels.len());
                Check::pass(title, format!("{}: {images} images, {kernels} kernels", source.url))
            }
            Err(mut error) if is_retryable_elsewhere(error.kind) => {
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

/// Downloads a catalog and replaces its copy. Returns false, and keeps the copy, if a newer version is known: a server
/// must not bring back withdrawn entries.
pub(super) fn refresh_cached(
    source: &CatalogUrl,
    registries: &Registries,
    dir: &Path,
    store: &Store,
    progress: &dyn banger_image::Progress,
) -> Result<bool, EngineError> {
    dirs::create_private(dir)?;
    let (bytes, verified) = signed(source).fetch(registries, dir, progress)?;
    // The copy may be of a store that was moved away.
    let copy = read_cached(dir, source, &SignedTimes::default());
    if copy.is_some_and(|copy| verified.signed_at < copy.signed_at)
        || !store.record_catalog(source, verified.signed_at)?
    {
        return Ok(false);
    }
    write_cache(&bytes, dir, &cache_path(dir, source))?;
    Ok(true)
}

pub(super) fn older_message(source: &CatalogUrl) -> String {
    format!("the catalog at {} has an older signature than its last version", source.url)
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
