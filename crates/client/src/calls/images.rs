//! Images.

use std::fs::File;

use banger_api::{
    ApiError, CatalogEntry, CommitVm, Digest, Image, ImageName, NameImage, PruneCache, PullImage,
    RegisterImage,
};
use hyper::Method;
use tokio::io::AsyncRead;

use super::Client;
use crate::{
    events::Events,
    http::{self, json, nothing, segment, stream_of},
};

impl Client {
    /// All images, by name.
    ///
    /// # Errors
    /// As every call.
    pub async fn images(&self) -> Result<Vec<Image>, ApiError> {
        self.call(Method::GET, "/v1/images", nothing).await
    }

    /// The images of the catalog.
    ///
    /// # Errors
    /// When a catalog's file is broken; else as every call.
    pub async fn catalog_images(&self) -> Result<Vec<CatalogEntry>, ApiError> {
        self.call(Method::GET, "/v1/catalog/images", nothing).await
    }

    /// Asks the catalogs at URLs what they have now; its result is nothing.
    ///
    /// # Errors
    /// As every call.
    pub async fn refresh_catalogs(&self) -> Result<Events, ApiError> {
        self.follow(Method::POST, "/v1/catalog/refresh", || Ok(nothing())).await
    }

    /// The image that `reference` names.
    ///
    /// # Errors
    /// When none or several do.
    pub async fn image(&self, reference: &str) -> Result<Image, ApiError> {
        self.call(Method::GET, &format!("/v1/images/{}", segment(reference)), nothing).await
    }

    /// Makes an image of a tar in a regular file, which the daemon reads itself; its result is an [`Image`].
    ///
    /// # Errors
    /// As every call.
    pub async fn import_image_file(&self, name: &ImageName, tar: File) -> Result<Events, ApiError> {
        self.ensure_daemon().await?;
        let path = format!("/v1/images?name={}", segment(name.as_str()));
        Ok(Events::new(self.send_with(Some(tar), Method::POST, &path, nothing()).await?.into_body()))
    }

    /// Makes an image of a tar; its result is an [`Image`].
    ///
    /// # Errors
    /// As every call.
    pub async fn import_image(
        &self,
        name: &ImageName,
        tar: impl AsyncRead + Send + 'static,
    ) -> Result<Events, ApiError> {
        // The tar can be sent once only.
        self.ensure_daemon().await?;
        let path = format!("/v1/images?name={}", segment(name.as_str()));
        Ok(Events::new(self.send(Method::POST, &path, stream_of(tar)).await?.into_body()))
    }

    /// Gets an image of the catalog or a registry; its result is an [`Image`].
    ///
    /// # Errors
    /// As every call.
    pub async fn pull_image(&self, pull: &PullImage) -> Result<Events, ApiError> {
        self.follow(Method::POST, "/v1/images/pull", || json(pull)).await
    }

    /// Makes an image of a bundle, which the daemon reads itself; its result is an [`Image`].
    ///
    /// # Errors
    /// As every call.
    pub async fn import_bundle(
        &self,
        bundle: File,
        name: Option<&ImageName>,
        sha256: Option<Digest>,
    ) -> Result<Events, ApiError> {
        self.ensure_daemon().await?;
        let path = format!("/v1/bundles?{}", bundle_query(name, sha256).join("&"));
        Ok(Events::new(self.send_with(Some(bundle), Method::POST, &path, nothing()).await?.into_body()))
    }

    /// Makes an image of the bundle at `url`; its result is an [`Image`].
    ///
    /// # Errors
    /// As every call.
    pub async fn download_bundle(
        &self,
        url: &str,
        name: Option<&ImageName>,
        sha256: Option<Digest>,
    ) -> Result<Events, ApiError> {
        let mut query = bundle_query(name, sha256);
        query.push(format!("url={}", segment(url)));
        self.follow(Method::POST, &format!("/v1/bundles?{}", query.join("&")), || Ok(nothing())).await
    }

    /// Writes an image into the file `out`, which the daemon does itself; its result is a [`Bundle`](banger_api::Bundle).
    ///
    /// # Errors
    /// As every call.
    pub async fn bundle_image(&self, reference: &str, out: File) -> Result<Events, ApiError> {
        self.ensure_daemon().await?;
        let path = format!("/v1/images/{}/bundle", segment(reference));
        Ok(Events::new(self.send_with(Some(out), Method::POST, &path, nothing()).await?.into_body()))
    }

    /// Deletes an image.
    ///
    /// # Errors
    /// When there is none, or a VM uses it.
    pub async fn delete_image(&self, reference: &str) -> Result<(), ApiError> {
        self.ask(Method::DELETE, &format!("/v1/images/{}", segment(reference))).await
    }

    /// Gives an image one more name; its result is an [`Image`].
    ///
    /// # Errors
    /// As every call.
    pub async fn tag_image(&self, reference: &str, tag: &NameImage) -> Result<Events, ApiError> {
        self.follow(Method::POST, &format!("/v1/images/{}/tag", segment(reference)), || json(tag)).await
    }

    /// Gives an image another name.
    ///
    /// # Errors
    /// When there is none, or the name is taken.
    pub async fn rename_image(&self, reference: &str, name: &ImageName) -> Result<Image, ApiError> {
        let rename = NameImage { name: name.clone(), replace_built: false };
        let path = format!("/v1/images/{}/rename", segment(reference));
        http::read(self.sent(Method::POST, &path, || json(&rename)).await?).await
    }

    /// Makes a file of the user's an image, where it is; its result is an [`Image`].
    ///
    /// # Errors
    /// As every call.
    pub async fn register_image(&self, register: &RegisterImage) -> Result<Events, ApiError> {
        self.follow(Method::POST, "/v1/images/register", || json(register)).await
    }

    /// Copies the file of a registered image into banger's own store; its result is an [`Image`].
    ///
    /// # Errors
    /// As every call.
    pub async fn promote_image(&self, reference: &str) -> Result<Events, ApiError> {
        let path = format!("/v1/images/{}/promote", segment(reference));
        self.follow(Method::POST, &path, || Ok(nothing())).await
    }

    /// Makes an image of what is on the disks of a VM that is down; its result is an [`Image`].
    ///
    /// # Errors
    /// When there is no such VM.
    pub async fn commit_vm(&self, reference: &str, commit: &CommitVm) -> Result<Events, ApiError> {
        self.follow(Method::POST, &format!("/v1/vms/{}/commit", segment(reference)), || json(commit)).await
    }

    /// Empties the caches; its result is a [`Pruned`](banger_api::Pruned).
    ///
    /// # Errors
    /// As every call.
    pub async fn prune_cache(&self, prune: PruneCache) -> Result<Events, ApiError> {
        self.follow(Method::POST, "/v1/images/prune", || json(&prune)).await
    }
}

fn bundle_query(name: Option<&ImageName>, sha256: Option<Digest>) -> Vec<String> {
    let name = name.map(|name| format!("name={}", segment(name.as_str())));
    let sha256 = sha256.map(|sha256| format!("sha256={}", segment(&sha256.to_string())));
    name.into_iter().chain(sha256).collect()
}
