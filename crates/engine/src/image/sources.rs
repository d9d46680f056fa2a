//! Catalog images, fetched from the first of their sources that can be reached.

use std::sync::Arc;

use banger_api::{
    ApiError, Credentials, ErrorKind, ImageName, ImageSource, OperationKind, PullImage, RefError, Remedy,
    SubjectKind, exact_image, resolve_image,
};
use banger_image::{CatalogImage, Recipe, Source};

use super::{images::Images, pull::PullOptions};
use crate::{
    admission,
    error::EngineError,
    operation::{Context, Events},
    remote::is_retryable_elsewhere,
    spans::now_ns,
    store::ImageRecord,
};

impl Images {
    /// Pulls an image of the catalog or of a registry.
    pub fn pull(self: &Arc<Self>, pull: PullImage) -> Events {
        let PullImage { name, size, credentials } = pull;
        let target = name.to_string();
        self.operation(OperationKind::ImagePull, &target, move |images, context| async move {
            let options = PullOptions { size, credentials, ..PullOptions::default() };
            images.fetch(name, options, &context).await
        })
    }

    /// Returns the image that `reference` names: a local one, by its full name or a prefix, else one of the catalog
    /// or of a registry, which is fetched first.
    pub(crate) async fn find_or_fetch(
        self: &Arc<Self>,
        reference: &str,
        credentials: Vec<Credentials>,
        context: &Context,
    ) -> Result<ImageRecord, EngineError> {
        let images = self.store.images()?;
        if let Some(image) = exact_image(&images, reference) {
            return Ok(image.clone());
        }
        // A catalog's full name precedes a prefix of a local name. A broken catalog hides no local image.
        if !self.catalogs.all().is_ok_and(|catalog| catalog.image(reference).is_some()) {
            match resolve_image(&images, reference) {
                Ok(image) => return Ok(image.clone()),
                Err(RefError::NotFound) => {}
                Err(error) => return Err(ApiError::unresolved(SubjectKind::Image, reference, error).into()),
            }
        }
        let name = reference.parse::<ImageName>().map_err(|error| {
            ApiError::new(ErrorKind::Invalid, format!("{reference:?} is not a valid image name: {error}"))
        })?;
        context.note(format!("image {reference} is not in the store yet: fetching it")).await;
        let began = now_ns();
        let options = PullOptions { credentials, ..PullOptions::default() };
        let fetched = self.fetch(name, options, context).await;
        context.spans.end("fetch image", began);
        fetched.map_err(|error| {
            let error = ApiError::from(error);
            let elsewhere =
                matches!(error.kind, ErrorKind::NotFound | ErrorKind::NotPermitted | ErrorKind::Unreachable);
            // A typo in the name of a local image also ends at a registry.
            if elsewhere && error.remedy.is_none() {
                error.remedy(Remedy::ListImages).into()
            } else {
                error.into()
            }
        })
    }

    /// Fetches the image `name` of the catalog, else of a registry.
    pub(super) async fn fetch(
        self: &Arc<Self>,
        name: ImageName,
        options: PullOptions,
        context: &Context,
    ) -> Result<ImageRecord, EngineError> {
        let has = |catalog: &banger_image::Catalog| catalog.image(name.as_str()).is_some();
        let catalog = self.catalogs.for_lookup(has, context).await?;
        if let Some(entry) = catalog.image(name.as_str()) {
            return self.fetch_from_catalog(entry, options, context).await;
        }
        let reference =
            name.reference().map_err(|error| ApiError::new(ErrorKind::Invalid, error.to_string()))?;
        self.pull_reference(reference, options, context).await
    }

    async fn fetch_from_catalog(
        self: &Arc<Self>,
        entry: &CatalogImage,
        options: PullOptions,
        context: &Context,
    ) -> Result<ImageRecord, EngineError> {
        let mut last_error = None;
        for source in &entry.sources {
            if let Some(ApiError { message, .. }) = last_error.take() {
                context.note(format!("{message}; trying the next source of {}", entry.name)).await;
            }
            match self.fetch_from_source(entry, source, options.clone(), context).await {
                Ok(image) => return Ok(image),
                Err(error) => {
                    let error = ApiError::from(error);
                    // Another source does not fix an error in the content.
                    if !is_retryable_elsewhere(error.kind) {
                        return Err(error.into());
                    }
                    last_error = Some(error);
                }
            }
        }
        let no_source = || ApiError::new(ErrorKind::NotFound, format!("image {} has no source", entry.name));
        Err(last_error.unwrap_or_else(no_source).into())
    }

    async fn fetch_from_source(
        self: &Arc<Self>,
        entry: &CatalogImage,
        source: &Source,
        options: PullOptions,
        context: &Context,
    ) -> Result<ImageRecord, EngineError> {
        match source {
            Source::Oci(reference) => {
                let name = stored_name(entry, source)?;
                let existing = self.store.images()?.into_iter().find(|image| image.name == name);
                if let Some(image) = existing.filter(|image| image.digest.is_none()) {
                    return Ok(image);
                }
                let kernel = entry.kernel.as_ref().map(ToString::to_string);
                let options = PullOptions { name: Some(name), kernel, ..options };
                self.pull_reference(reference.clone(), options, context).await
            }
            Source::Mmdebstrap(recipe) => self.build_from_packages(entry, recipe.clone(), context).await,
            Source::Bundle { location, sha256 } => self.pull_bundle(entry, location, *sha256, context).await,
        }
    }

    /// Builds the catalog's image `entry` from packages. Concurrent requests share one build.
    async fn build_from_packages(
        self: &Arc<Self>,
        entry: &CatalogImage,
        recipe: Recipe,
        context: &Context,
    ) -> Result<ImageRecord, EngineError> {
        let _one_at_a_time = context.unless_cancelled(async { Ok(self.publishing.lock().await) }).await?;
        if let Some(image) = self.store.images()?.into_iter().find(|image| image.name == entry.name) {
            return Ok(image);
        }
        admission::check_space(&self.dirs.state, "the image", entry.size)?;
        let written = self
            .write_rootfs(context, move |dir, out, progress| {
                banger_image::fetch_image(&recipe, dir, out, progress)
            })
            .await?;
        let kernel = entry.kernel.as_ref().map(ToString::to_string);
        let image = written.record(entry.name.clone(), ImageSource::Catalog, kernel);
        self.publish_new(written.staged, image)
    }
}

/// Returns an entry's local name: the full registry name if the source has the same name, else the entry's.
fn stored_name(entry: &CatalogImage, source: &Source) -> Result<ImageName, ApiError> {
    let registry_reference =
        entry.name.reference().map_err(|error| ApiError::new(ErrorKind::Invalid, error.to_string()))?;
    Ok(match source {
        Source::Oci(reference) if reference.name() == registry_reference.name() => registry_reference.name(),
        _ => entry.name.clone(),
    })
}

#[cfg(test)]
mod tests {
    use banger_image::Catalog;

    use super::*;

    const ENTRY: &str = "[[image]]\nname = 'alpine'\ndescription = 'Ours'\ndistro = 'alpine'\nsize = '1G'\nsource = [{ oci = 'r.corp/a:1' }]\n";

    #[test]
    fn local_names_come_from_the_catalog_entry_or_the_registry() {
        let catalog = Catalog::parse(ENTRY).unwrap();
        let name = |entry: &CatalogImage| stored_name(entry, &entry.sources[0]).unwrap().to_string();
        assert_eq!(name(&catalog.images[0]), "alpine");
        assert_eq!(name(banger_image::catalog().image("alpine").unwrap()), "alpine:latest");
        assert_eq!(name(banger_image::catalog().image("debian-bookworm").unwrap()), "debian-bookworm");
    }
}
