//! Catalogs at URLs: downloaded, and cached once their signatures are verified.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use banger_api::{ApiError, Check, Config, ErrorKind, Remedy, config::CatalogUrl};
use banger_image::{CATALOG_MAX, Catalog, Registries, SignedCatalog, Silent};
use sha2::{Digest as _, Sha256};

use crate::{
    config::read_up_to,
    dirs,
    error::EngineError,
    remote::{may_be_elsewhere, registries},
};

/// Maximum length of a copy, in bytes: a catalog with its signature above it.
const COPY_MAX: u64 = CATALOG_MAX + (16 << 10);

/// Returns the path of a catalog's copy in a directory. It depends on the URL and the key.
pub(crate) fn copy_of(folder: &Path, wanted: &CatalogUrl) -> PathBuf {
    let digest = Sha256::digest(format!("{}\n{}", wanted.url, wanted.key));
    let name: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    folder.join(name)
}

/// Reads a catalog's copy from a directory; ignores and logs a broken one.
pub(super) fn read_copy(folder: &Path, wanted: &CatalogUrl) -> Option<Catalog> {
    let path = copy_of(folder, wanted);
    let bytes = read_up_to(&path, COPY_MAX).ok()?;
    let read = signed(wanted).read(&bytes);
    read.inspect_err(|error| tracing::warn!(path = %path.display(), %error, "a cached catalog is not used"))
        .ok()
}

/// Downloads all catalogs at URLs and reports the results, without caching the catalogs.
pub(crate) async fn check(config: &Config, folder: &Path) -> Vec<Check> {
    let registries = registries(config, Vec::new());
    let mut checks = Vec::new();
    for wanted in config.catalogs() {
        let (asked, registries) = (wanted.clone(), registries.clone());
        let fetch = move || fetch(&asked, &registries, &std::env::temp_dir(), &Silent);
        let fetched = tokio::task::spawn_blocking(fetch).await.unwrap_or(Err(EngineError::Cancelled));
        let title = "signed catalog";
        checks.push(match fetched.map_err(ApiError::from) {
            Ok((bytes, _)) if is_older(&bytes, folder, wanted) => {
                let message = format!("{}; the cached copy is used", older(wanted));
                let error = ApiError::new(ErrorKind::Invalid, message);
                Check::warn(title, error.remedy(Remedy::CheckCatalogSignature))
            }
            Ok((_, catalog)) => {
                let (images, kernels) = (catalog.images.len(), catalog.kernels.len());
                Check::pass(title, format!("{}: {images} images, {kernels} kernels", wanted.url))
            }
            Err(mut error) if may_be_elsewhere(error.kind) => {
                let copy = if read_copy(folder, wanted).is_some() {
                    "the cached copy is used"
                } else {
                    "there is no cached copy"
                };
                error.message.push_str("; ");
                error.message.push_str(copy);
                Check::warn(title, error)
            }
            Err(error) => Check::fail(title, error),
        });
    }
    checks
}

fn signed(wanted: &CatalogUrl) -> SignedCatalog<'_> {
    SignedCatalog { url: &wanted.url, key: &wanted.key }
}

/// Downloads a catalog; returns the bytes to cache and the catalog read from them.
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

/// Downloads a catalog and replaces its copy. Returns false, and keeps the copy, if that was signed later.
pub(super) fn refresh_copy(
    wanted: &CatalogUrl,
    registries: &Registries,
    folder: &Path,
    progress: &dyn banger_image::Progress,
) -> Result<bool, EngineError> {
    dirs::private(folder)?;
    let (bytes, _) = fetch(wanted, registries, folder, progress)?;
    if is_older(&bytes, folder, wanted) {
        return Ok(false);
    }
    keep(&bytes, folder, &copy_of(folder, wanted))?;
    Ok(true)
}

/// Returns whether the downloaded catalog was signed before the copy: a mirror must not restore withdrawn entries.
fn is_older(signed_bytes: &[u8], folder: &Path, wanted: &CatalogUrl) -> bool {
    let signed_at = |bytes: &[u8]| signed(wanted).signed_at(bytes);
    let copy = read_up_to(&copy_of(folder, wanted), COPY_MAX).ok();
    let copied = copy.and_then(|copy| signed_at(&copy));
    copied.zip(signed_at(signed_bytes)).is_some_and(|(copied, come)| come < copied)
}

pub(super) fn older(wanted: &CatalogUrl) -> String {
    format!("the catalog at {} has an older signature than the cached copy", wanted.url)
}

pub(super) fn is_younger(path: &Path, age: Duration) -> bool {
    let written = fs::metadata(path).and_then(|meta| meta.modified()).ok();
    // The age of a copy from the future is unknown.
    written.and_then(|written| written.elapsed().ok()).is_some_and(|elapsed| elapsed < age)
}

fn keep(bytes: &[u8], folder: &Path, copy: &Path) -> Result<(), EngineError> {
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(EngineError::file("write to", folder))?;
    file.write_all(bytes).map_err(EngineError::file("write", copy))?;
    file.persist(copy).map_err(|error| EngineError::file("write", copy)(error.error))?;
    Ok(())
}
