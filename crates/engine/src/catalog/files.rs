//! Catalog files: the user's catalog over the system's, over copies of those at URLs, over the one built in; read again
//! whenever a file has changed.
//!
//! A file that is broken is an error of the request that needs it: what is here already needs none.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use banger_api::{ApiError, Check, Dirs, ErrorKind, Remedy, config::CatalogUrl};
use banger_image::{CATALOG_MAX, Catalog};

use super::signed::{copy_of, read_copy};
use crate::config::{Identity, identity, read_up_to};

/// The files, and what they said when they were last looked at.
#[derive(Debug)]
pub(crate) struct CatalogFiles {
    /// The strongest first.
    files: [PathBuf; 2],
    /// Where the copies of catalogs at URLs are.
    copies: PathBuf,
    last: Mutex<Option<Seen>>,
}

#[derive(Debug)]
struct Seen {
    signed: Vec<CatalogUrl>,
    files: Vec<Option<Identity>>,
    layers: Layers,
}

/// What there is.
#[derive(Debug, Clone)]
pub(crate) struct Layers {
    /// Of the user's and the system's files.
    pub(crate) own: Arc<Catalog>,
    /// In all.
    pub(crate) all: Arc<Catalog>,
}

impl CatalogFiles {
    pub(crate) fn of(dirs: &Dirs) -> Self {
        let files = [dirs.catalog_file(), dirs.system_catalog_file()];
        Self { files, copies: dirs.cache.join("catalogs"), last: Mutex::new(None) }
    }

    /// The folder with the copies of catalogs at URLs.
    pub(crate) fn copies(&self) -> &Path {
        &self.copies
    }

    /// What the files say now, over the copies of `signed`, the strongest first.
    pub(crate) fn layers(&self, signed: &[CatalogUrl]) -> Result<Layers, ApiError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let copies = signed.iter().map(|wanted| copy_of(&self.copies, wanted));
        let files: Vec<_> = self.files.iter().cloned().chain(copies).map(|path| identity(&path)).collect();
        if let Some(seen) = &*last
            && seen.files == files
            && seen.signed == signed
        {
            return Ok(seen.layers.clone());
        }
        // Looked at before it is read: one that changes in between is read again the next time.
        let [user, system] = &self.files;
        let own = layer(user)?.over(&layer(system)?);
        let copies = signed.iter().filter_map(|wanted| read_copy(&self.copies, wanted));
        let all = copies.fold(own.clone(), |stronger, weaker| stronger.over(&weaker));
        let layers = Layers { own: Arc::new(own), all: Arc::new(all.over(banger_image::catalog())) };
        *last = Some(Seen { signed: signed.to_vec(), files, layers: layers.clone() });
        Ok(layers)
    }

    /// Whether the files can be used; nothing where there are none.
    pub(crate) fn check(&self) -> Option<Check> {
        let there: Vec<_> = self.files.iter().filter(|path| identity(path).is_some()).collect();
        if there.is_empty() {
            return None;
        }
        Some(match self.layers(&[]) {
            Ok(_) => {
                let paths: Vec<_> = there.iter().map(|path| path.display().to_string()).collect();
                Check::pass("catalog", paths.join(", "))
            }
            Err(error) => Check::fail("catalog", error),
        })
    }
}

/// What the file at `path` says; there need not be one.
fn layer(path: &Path) -> Result<Catalog, ApiError> {
    let file = path.display();
    let unusable = |problem: String| {
        ApiError::new(ErrorKind::Invalid, format!("cannot use {file}: {problem}"))
            .remedy(Remedy::CorrectCatalog { line: None })
    };
    let bytes = match read_up_to(path, CATALOG_MAX) {
        Ok(bytes) => bytes,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Catalog::default());
        }
        Err(error) => return Err(unusable(error.to_string())),
    };
    if bytes.len() as u64 > CATALOG_MAX {
        return Err(unusable(format!("it is longer than {} KiB", CATALOG_MAX >> 10)));
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
    fn files_are_layered_read_again_and_told_when_broken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let lookup = |name: &str| match name {
            "HOME" => Some(path.clone()),
            "BANGER_SYSTEM_CONFIG" => Some(path.join("etc/config.toml")),
            _ => None,
        };
        let dirs = Dirs::find(lookup, 7).unwrap();
        let files = CatalogFiles::of(&dirs);
        assert!(files.check().is_none());
        assert_eq!(*files.layers(&[]).unwrap().all, *banger_image::catalog());
        fs::create_dir_all(path.join("etc")).unwrap();
        fs::write(path.join("etc/catalog.toml"), ENTRY.replace("Ours", "The whole host")).unwrap();
        let described = || files.layers(&[]).unwrap().all.image("alpine").unwrap().description.to_string();
        assert_eq!(described(), "The whole host");
        fs::create_dir_all(&dirs.config).unwrap();
        fs::write(dirs.catalog_file(), ENTRY).unwrap();
        assert_eq!(described(), "Ours");
        assert!(files.layers(&[]).unwrap().all.image("debian-bookworm").is_some());
        fs::write(dirs.catalog_file(), ENTRY.replace("distro", "distribution")).unwrap();
        let error = files.layers(&[]).unwrap_err();
        assert!(error.message.contains("catalog.toml:4: unknown field `distribution`"), "{error}");
        assert!(files.check().is_some());
        fs::write(dirs.catalog_file(), "#".repeat(2 << 20)).unwrap();
        assert!(files.layers(&[]).unwrap_err().message.contains("longer than 1024 KiB"));
        fs::remove_file(dirs.catalog_file()).unwrap();
        assert_eq!(described(), "The whole host");
    }
}
