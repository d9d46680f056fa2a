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
    http::{self, empty_body, json_body, segment, stream_body},
};

impl Client {
    /// Returns all images, by name.
    ///
    /// # Errors
    /// Returns an error if the request fails.
    pub async fn images(&self) -> Result<Vec<Image>, ApiError> {
        self.call(Method::GET, "/v1/images", empty_body).await
    }

    /// Returns the catalog's images.
    ///
    /// # Errors
    /// Returns an error if a catalog's file is broken, or the request fails.
    pub async fn catalog_images(&self) -> Result<Vec<CatalogEntry>, ApiError> {
        self.call(Method::GET, "/v1/catalog/images", empty_body).await
    }

    /// Fetches the catalogs at URLs; the operation has no result.
    ///
    /// # Errors
    /// Returns an error if the request fails.
    pub async fn refresh_catalogs(&self) -> Result<Events, ApiError> {
        self.follow(Method::POST, "/v1/catalog/refresh", || Ok(empty_body())).await
    }

    /// Returns the image that `reference` names.
    ///
    /// # Errors
    /// Returns an error if none or several match.
    pub async fn image(&self, reference: &str) -> Result<Image, ApiError> {
        self.call(Method::GET, &format!("/v1/images/{}", segment(reference)), empty_body).await
    }

    /// Creates an image from a tar in a regular file, which the daemon reads itself; the result is an [`Image`].
    ///
    /// # Errors
    /// Returns an error if the request fails.
    pub async fn import_image_file(&self, name: &ImageName, tar: File) -> Result<Events, ApiError> {
        self.ensure_daemon().await?;
        let path = format!("/v1/images?name={}", segment(name.as_str()));
        Ok(Events::new(self.send_with(Some(tar), Method::POST, &path, empty_body()).await?.into_body()))
    }

    /// Creates an image from a tar; the result is an [`Image`].
    ///
    /// # Errors
    /// Returns an error if the request fails.
    pub async fn import_image(
        &self,
        name: &ImageName,
        tar: impl AsyncRead + Send + 'static,
    ) -> Result<Events, ApiError> {
        // The tar can be sent only once.
        self.ensure_daemon().await?;
        let path = format!("/v1/images?name={}", segment(name.as_str()));
        Ok(Events::new(self.send(Method::POST, &path, stream_body(tar)).await?.into_body()))
    }

    /// Pulls an image from the catalog or a registry; the result is an [`Image`].
    ///
    /// # Errors
    /// Returns an error if the request fails.
    pub async fn pull_image(&self, pull: &PullImage) -> Result<Events, ApiError> {
        self.follow(Method::POST, "/v1/images/pull", || json_body(pull)).await
    }

    /// Creates an image from a bundle, which the daemon reads itself; the result is an [`Image`].
    ///
    /// # Errors
    /// Returns an error if the request fails.
    pub async fn import_bundle(
        &self,
        bundle: File,
        name: Option<&ImageName>,
        sha256: Option<Digest>,
    ) -> Result<Events, ApiError> {
        self.ensure_daemon().await?;
        let path = format!("/v1/bundles?{}", bundle_query(name, sha256).join("&"));
        Ok(Events::new(self.send_with(Some(bundle), Method::POST, &path, empty_body()).await?.into_body()))
    }

    /// Creates an image from the bundle at `url`; the result is an [`Image`].
    ///
    /// # Errors
    /// Returns an error if the request fails.
    pub async fn download_bundle(
        &self,
        url: &str,
        name: Option<&ImageName>,
        sha256: Option<Digest>,
    ) -> Result<Events, ApiError> {
        let mut query = bundle_query(name, sha256);
        query.push(format!("url={}", segment(url)));
        self.follow(Method::POST, &format!("/v1/bundles?{}", query.join("&")), || Ok(empty_body())).await
    }

    /// Exports an image to the file `out`, which the daemon writes itself; the result is a
    /// [`Bundle`](banger_api::Bundle).
    ///
    /// # Errors
    /// Returns an error if the request fails.
    pub async fn bundle_image(&self, reference: &str, out: File) -> Result<Events, ApiError> {
        self.ensure_daemon().await?;
        let path = format!("/v1/images/{}/bundle", segment(reference));
        Ok(Events::new(self.send_with(Some(out), Method::POST, &path, empty_body()).await?.into_body()))
    }

    /// Deletes an image.
    ///
    /// # Errors
    /// Returns an error if there is no such image, or a VM uses it.
    pub async fn delete_image(&self, reference: &str) -> Result<(), ApiError> {
        self.call_empty(Method::DELETE, &format!("/v1/images/{}", segment(reference))).await
    }

    /// Adds a name to an image; the result is an [`Image`].
    ///
    /// # Errors
    /// Returns an error if the request fails.
    pub async fn tag_image(&self, reference: &str, tag: &NameImage) -> Result<Events, ApiError> {
        self.follow(Method::POST, &format!("/v1/images/{}/tag", segment(reference)), || json_body(tag)).await
    }

    /// Renames an image.
    ///
    /// # Errors
    /// Returns an error if there is no such image, or the name is in use.
    pub async fn rename_image(&self, reference: &str, name: &ImageName) -> Result<Image, ApiError> {
        let rename = NameImage { name: name.clone(), replace_built: false };
        let path = format!("/v1/images/{}/rename", segment(reference));
        http::read(self.send_retrying(Method::POST, &path, || json_body(&rename)).await?).await
    }

    /// Registers a user's file as an image, in place; the result is an [`Image`].
    ///
    /// # Errors
    /// Returns an error if the request fails.
    pub async fn register_image(&self, register: &RegisterImage) -> Result<Events, ApiError> {
        self.follow(Method::POST, "/v1/images/register", || json_body(register)).await
    }

    /// Copies the file of a registered image into banger's own store; the result is an [`Image`].
    ///
    /// # Errors
    /// Returns an error if the request fails.
    pub async fn promote_image(&self, reference: &str) -> Result<Events, ApiError> {
        let path = format!("/v1/images/{}/promote", segment(reference));
        self.follow(Method::POST, &path, || Ok(empty_body())).await
    }

    /// Creates an image from the disks of a stopped VM; the result is an [`Image`].
    ///
    /// # Errors
    /// Returns an error if there is no such VM.
    pub async fn commit_vm(&self, reference: &str, commit: &CommitVm) -> Result<Events, ApiError> {
        self.follow(Method::POST, &format!("/v1/vms/{}/commit", segment(reference)), || json_body(commit))
            .await
    }

    /// Empties the caches; the result is a [`Pruned`](banger_api::Pruned).
    ///
    /// # Errors
    /// Returns an error if the request fails.
    pub async fn prune_cache(&self, prune: PruneCache) -> Result<Events, ApiError> {
        self.follow(Method::POST, "/v1/images/prune", || json_body(&prune)).await
    }
}

fn bundle_query(name: Option<&ImageName>, sha256: Option<Digest>) -> Vec<String> {
    let name = name.map(|name| format!("name={}", segment(name.as_str())));
    let sha256 = sha256.map(|sha256| format!("sha256={}", segment(&sha256.to_string())));
    name.into_iter().chain(sha256).collect()
}
