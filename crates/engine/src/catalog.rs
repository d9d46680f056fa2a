//! What can be fetched by name: the user's catalog over the system's, over copies of those at URLs, over the one built in;
//! read again whenever a file has changed.
//!
//! A file that is broken is an error of the request that needs it: what is here already needs none.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use banger_api::{ApiError, CatalogEntry, Check, Dirs, ErrorKind, ImageName, Reference, config::CatalogUrl};
use banger_image::{CATALOG_MAX, Catalog, CatalogImage, Source};

use crate::{
    config::{Identity, identity, read_up_to},
    error::EngineError,
    host::Host,
    operation::Context,
    pull::PullOptions,
    signed_catalogs::{copy_of, read_copy},
    store::ImageRecord,
};

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
            Err(error) => Check::fail("catalog", error.message, error.hint.unwrap_or_default()),
        })
    }
}

/// What the file at `path` says; there need not be one.
fn layer(path: &Path) -> Result<Catalog, ApiError> {
    let file = path.display();
    let unusable = |problem: String| {
        ApiError::new(ErrorKind::Invalid, format!("cannot use {file}: {problem}"))
            .hint("correct or remove that file, then run the command again; images that are here need none")
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
        ApiError::new(ErrorKind::Invalid, message)
            .hint("correct or remove that line, then run the command again; images that are here need none")
    })
}

impl Host {
    /// Gets an image of the catalog from the first of its sources that can be reached.
    pub(crate) async fn pull_from_catalog(
        self: &Arc<Self>,
        entry: &CatalogImage,
        options: PullOptions,
        context: &Context,
    ) -> Result<ImageRecord, EngineError> {
        let mut refusal = None;
        for source in &entry.sources {
            if let Some(ApiError { message, .. }) = refusal.take() {
                context.note(format!("{message}; trying the next source of {}", entry.name)).await;
            }
            match self.pull_from_source(entry, source, options.clone(), context).await {
                Ok(image) => return Ok(image),
                Err(error) => {
                    let error = ApiError::from(error);
                    // What is wrong with the content is not mended by having another's.
                    if !may_be_elsewhere(error.kind) {
                        return Err(error.into());
                    }
                    refusal = Some(error);
                }
            }
        }
        let none = || ApiError::new(ErrorKind::NotFound, format!("image {} has no source", entry.name));
        Err(refusal.unwrap_or_else(none).into())
    }

    async fn pull_from_source(
        self: &Arc<Self>,
        entry: &CatalogImage,
        source: &Source,
        options: PullOptions,
        context: &Context,
    ) -> Result<ImageRecord, EngineError> {
        match source {
            Source::Oci(reference) => {
                let name = stored_name(entry, source)?;
                let here = self.store.images()?.into_iter().find(|image| image.name == name);
                if let Some(image) = here.filter(|image| image.digest.is_none()) {
                    return Ok(image);
                }
                let kernel = entry.kernel.as_ref().map(ToString::to_string);
                let options = PullOptions { name: Some(name), kernel, ..options };
                self.pull_reference(reference.clone(), options, context).await
            }
            Source::Mmdebstrap(recipe) => self.make_of_packages(entry, recipe.clone(), context).await,
            Source::Bundle { place, sha256 } => self.pull_bundle(entry, place, *sha256, context).await,
        }
    }

    /// The catalog's images, and which of them are here.
    pub(crate) fn catalog_entries(&self) -> Result<Vec<CatalogEntry>, ApiError> {
        let images = self.store.images()?;
        let entry = |image: &CatalogImage| CatalogEntry {
            name: image.name.clone(),
            description: image.description.to_string(),
            distro: image.distro.to_string(),
            arch: image.arch.to_string(),
            kernel: image.kernel.clone(),
            size: image.size,
            sources: image.sources.iter().map(|source| source.kind().to_owned()).collect(),
            references: image.sources.iter().filter_map(Source::reference).map(Reference::name).collect(),
            here: banger_api::exact_image(&images, image.name.as_str()).is_some(),
        };
        Ok(self.catalog()?.images.iter().map(entry).collect())
    }
}

/// What the image of an entry is called here: as the entry, but for one that is a registry's under the same name.
fn stored_name(entry: &CatalogImage, source: &Source) -> Result<ImageName, ApiError> {
    let meant =
        entry.name.reference().map_err(|error| ApiError::new(ErrorKind::Invalid, error.to_string()))?;
    Ok(match source {
        Source::Oci(reference) if reference.name() == meant.name() => meant.name(),
        _ => entry.name.clone(),
    })
}

/// Whether another source may do what this one could not.
pub(crate) fn may_be_elsewhere(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Unreachable
            | ErrorKind::Timeout
            | ErrorKind::NotPermitted
            | ErrorKind::MissingProgram
            | ErrorKind::NotFound
    )
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

    #[test]
    fn an_image_is_called_as_its_entry_or_as_its_registry_has_it() {
        let catalog = Catalog::parse(ENTRY).unwrap();
        let name = |entry: &CatalogImage| stored_name(entry, &entry.sources[0]).unwrap().to_string();
        assert_eq!(name(&catalog.images[0]), "alpine");
        assert_eq!(name(banger_image::catalog().image("alpine").unwrap()), "alpine:latest");
        assert_eq!(name(banger_image::catalog().image("debian-bookworm").unwrap()), "debian-bookworm");
    }
}
