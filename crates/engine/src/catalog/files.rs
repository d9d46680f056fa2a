//! Catalog files: the user's catalog over the system's, over cached copies of those at URLs, over the built-in one.
//! They are read again after a file changes.
//!
//! A broken file is an error of the request that needs it. Images and kernels that exist locally need no catalog.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use banger_api::{ApiError, Check, Dirs, ErrorKind, Remedy, config::CatalogUrl};
use banger_image::{Catalog, MAX_CATALOG};

use super::signed::{cache_path, read_cached};
use crate::{
    config::{Identity, identity, read_up_to},
    store::SignedTimes,
};

/// The catalog files, and the catalogs last read from them.
#[derive(Debug)]
pub(crate) struct CatalogFiles {
    /// The files, highest precedence first.
    files: [PathBuf; 2],
    /// The directory of the cached copies of catalogs at URLs.
    cache_dir: PathBuf,
    cache: Mutex<Option<CachedLayers>>,
}

#[derive(Debug)]
struct CachedLayers {
    signed: Vec<CatalogUrl>,
    times: SignedTimes,
    files: Vec<Option<Identity>>,
    layers: Layers,
}

/// The merged catalogs.
#[derive(Debug, Clone)]
pub(crate) struct Layers {
    /// The user's and the system's files.
    pub(crate) local: Arc<Catalog>,
    /// All catalogs.
    pub(crate) all: Arc<Catalog>,
}

impl CatalogFiles {
    pub(crate) fn new(dirs: &Dirs) -> Self {
        let files = [dirs.catalog_file(), dirs.system_catalog_file()];
        Self { files, cache_dir: dirs.cache.join("catalogs"), cache: Mutex::new(None) }
    }

    /// Returns the directory of the cached copies of catalogs at URLs.
    pub(crate) fn cache_dir(&self) -> &Path {
        &self.cache_dir
    }

    /// Returns the current catalogs of the files, over the copies of `signed` that are not older than `times`, highest
    /// precedence first.
    pub(crate) fn layers(&self, signed: &[CatalogUrl], times: &SignedTimes) -> Result<Layers, ApiError> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let cached_paths = signed.iter().map(|source| cache_path(&self.cache_dir, source));
        let files: Vec<_> =
            self.files.iter().cloned().chain(cached_paths).map(|path| identity(&path)).collect();
        if let Some(cached) = &*cache
            && cached.files == files
            && cached.signed == signed
            && cached.times == *times
        {
            return Ok(cached.layers.clone());
        }
        // Identified before reading, so that a file that changes in between is read again the next time.
        let [user, system] = &self.files;
        let local = layer(user)?.with_fallback(&layer(system)?);
        let copies = signed.iter().filter_map(|source| read_cached(&self.cache_dir, source, times));
        let all = copies.fold(local.clone(), |stronger, copy| stronger.with_fallback(&copy.catalog));
        let layers =
            Layers { local: Arc::new(local), all: Arc::new(all.with_fallback(banger_image::catalog())) };
        *cache = Some(CachedLayers {
            signed: signed.to_vec(),
            times: times.clone(),
            files,
            layers: layers.clone(),
        });
        Ok(layers)
    }

    /// Checks that the files can be used; returns `None` if there are none.
    pub(crate) fn check(&self) -> Option<Check> {
        let existing: Vec<_> = self.files.iter().filter(|path| identity(path).is_some()).collect();
        if existing.is_empty() {
            return None;
        }
        Some(match self.layers(&[], &SignedTimes::default()) {
            Ok(_) => {
                let paths: Vec<_> = existing.iter().map(|path| path.display().to_string()).collect();
                Check::pass("catalog", paths.join(", "))
            }
            Err(error) => Check::fail("catalog", error),
        })
    }
}

/// Reads the catalog file at `path`; a missing file is an empty catalog.
fn layer(path: &Path) -> Result<Catalog, ApiError> {
    let file = path.display();
    let unusable = |problem: String| {
        ApiError::new(ErrorKind::Invalid, format!("cannot use {file}: {problem}"))
            .remedy(Remedy::CorrectCatalog { line: None })
    };
    let bytes = match read_up_to(path, MAX_CATALOG) {
        Ok(bytes) => bytes,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Catalog::default());
        }
        Err(error) => return Err(unusable(error.to_string())),
    };
    if bytes.len() as u64 > MAX_CATALOG {
        return Err(unusable(format!("it is longer than {} KiB", MAX_CATALOG >> 10)));
    }
    let text = std::str::from_utf8(&bytes).map_err(|error| unusable(error.to_string()))?;
    Catalog::parse(text).map_err(|error| {
        let message = format!("cannot use {file}:{}: {}", error.line, error.problem);
        ApiError::new(ErrorKind::Invalid, message).remedy(Remedy::CorrectCatalog { line: Some(error.line) })
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const ENTRY: &str = "[[image]]\nname = 'alpine'\ndescription = 'Ours'\ndistro = 'alpine'\nsize = '1G'\nsource = [{ oci = 'r.corp/a:1' }]\n";

    #[test]
    fn catalog_files_are_layered_reread_and_reported_when_invalid() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let lookup = |name: &str| match name {
            "HOME" => Some(path.clone()),
            "BANGER_SYSTEM_CONFIG" => Some(path.join("etc/config.toml")),
            _ => None,
        };
        let dirs = Dirs::find(lookup).unwrap();
        let files = CatalogFiles::new(&dirs);
        let layers = || files.layers(&[], &SignedTimes::default());
        assert!(files.check().is_none());
        assert_eq!(*layers().unwrap().all, *banger_image::catalog());
        fs::create_dir_all(path.join("etc")).unwrap();
        fs::write(path.join("etc/catalog.toml"), ENTRY.replace("Ours", "The whole host")).unwrap();
        let described = || layers().unwrap().all.image("alpine").unwrap().description.to_string();
        assert_eq!(described(), "The whole host");
        fs::create_dir_all(&dirs.config).unwrap();
        fs::write(dirs.catalog_file(), ENTRY).unwrap();
        assert_eq!(described(), "Ours");
        assert!(layers().unwrap().all.image("debian-bookworm").is_some());
        fs::write(dirs.catalog_file(), ENTRY.replace("distro", "distribution")).unwrap();
        let error = layers().unwrap_err();
        assert!(error.message.contains("catalog.toml:4: unknown field `distribution`"), "{error}");
        assert!(files.check().is_some());
        fs::write(dirs.catalog_file(), "#".repeat(2 << 20)).unwrap();
        assert!(layers().unwrap_err().message.contains("longer than 1024 KiB"));
        fs::remove_file(dirs.catalog_file()).unwrap();
        assert_eq!(described(), "The whole host");
    }
}
