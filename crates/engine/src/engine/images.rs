//! What can be asked about images.

use std::{fs::File, io::Read, sync::Arc, time::Duration};

use banger_api::{ApiError, CatalogEntry, Digest, Image, ImageName, OperationKind, PullImage, resolve_image};

use super::{Engine, Events};
use crate::{
    bundles::BundleOptions,
    error::EngineError,
    host::{Host, unresolved},
    images::Tar,
    operation::{Context, OnHangUp},
    pull::PullOptions,
    store::ImageRecord,
};

impl Engine {
    /// All images, by name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn images(&self) -> Result<Vec<Image>, ApiError> {
        let vms = self.0.store.vms()?;
        Ok(self.0.store.images()?.iter().map(|image| self.0.show_image(image, &vms)).collect())
    }

    /// The image that `reference` names.
    ///
    /// # Errors
    /// When none or several do.
    pub fn image(&self, reference: &str) -> Result<Image, ApiError> {
        let images = self.0.store.images()?;
        let image =
            resolve_image(&images, reference).map_err(|error| unresolved("image", reference, error))?;
        Ok(self.0.show_image(image, &self.0.store.vms()?))
    }

    /// The catalog's images.
    ///
    /// # Errors
    /// When one of its files is broken.
    pub fn catalog_images(&self) -> Result<Vec<CatalogEntry>, ApiError> {
        self.0.catalog_entries()
    }

    /// Asks the catalogs at URLs what they have now.
    pub fn refresh_catalogs(&self) -> Events {
        let host = self.0.clone();
        let work = |context| async move { host.refresh_catalogs(Duration::ZERO, &context).await };
        let kind = OperationKind::CatalogRefresh;
        self.0.operations.start(kind, "catalogs", OnHangUp::Cancel, work, |_, _| async {})
    }

    /// Makes an image of a tar of a root file system.
    pub fn import_image<R: Read + Send + 'static>(&self, name: ImageName, tar: Tar<R>) -> Events {
        let target = name.to_string();
        self.image_operation(OperationKind::ImageImport, &target, move |host, context| async move {
            host.import_image(name, tar, &context).await
        })
    }

    /// Gets an image of the catalog or a registry.
    pub fn pull_image(&self, pull: PullImage) -> Events {
        let PullImage { name, size, credentials } = pull;
        let target = name.to_string();
        self.image_operation(OperationKind::ImagePull, &target, move |host, context| async move {
            host.pull_image(name, PullOptions { size, credentials, ..PullOptions::default() }, &context).await
        })
    }

    /// Makes an image of a bundle, called as that says or `name`; all its bytes have the digest `sha256`, where there is
    /// one.
    pub fn import_bundle(&self, file: File, name: Option<ImageName>, sha256: Option<Digest>) -> Events {
        let target = name.as_ref().map_or_else(|| "a bundle".to_owned(), ToString::to_string);
        self.image_operation(OperationKind::ImageImport, &target, move |host, context| async move {
            let options = BundleOptions { name, sha256, kernel: None };
            host.import_bundle(file, options, "bundle", &context).await
        })
    }

    /// Makes an image of the bundle at `url`, as of one in a file.
    pub fn download_bundle(&self, url: String, name: Option<ImageName>, sha256: Option<Digest>) -> Events {
        let target = name.as_ref().map_or_else(|| "a bundle".to_owned(), ToString::to_string);
        self.image_operation(OperationKind::ImagePull, &target, move |host, context| async move {
            host.download_bundle(url, BundleOptions { name, sha256, kernel: None }, &context).await
        })
    }

    /// Writes the image that `reference` names into the file `out`, as a bundle.
    pub fn bundle_image(&self, reference: String, out: File) -> Events {
        let (host, target) = (self.0.clone(), reference.clone());
        let work = |context| async move { host.bundle_image(&reference, out, &context).await };
        self.0.operations.start(OperationKind::ImageBundle, &target, OnHangUp::Cancel, work, |_, _| async {})
    }

    pub(super) fn image_operation<W>(
        &self,
        kind: OperationKind,
        target: &str,
        work: impl FnOnce(Arc<Host>, Context) -> W + Send + 'static,
    ) -> Events
    where
        W: Future<Output = Result<ImageRecord, EngineError>> + Send + 'static,
    {
        let host = self.0.clone();
        let work = |context| async move { Ok(host.show_image(&work(host.clone(), context).await?, &[])) };
        self.0.operations.start(kind, target, OnHangUp::Cancel, work, |_, _| async {})
    }

    /// Deletes an image that no VM uses.
    ///
    /// # Errors
    /// When there is none, or it is in use.
    pub fn delete_image(&self, reference: &str) -> Result<(), ApiError> {
        Ok(self.0.delete_image(reference)?)
    }
}
