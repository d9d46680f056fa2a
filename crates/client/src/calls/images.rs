//! Images.

use std::fs::File;

use banger_api::{ApiError, Image, ImageName, PullImage};
use hyper::Method;
use tokio::io::AsyncRead;

use super::Client;
use crate::{
    events::Events,
    http::{json, nothing, segment, stream_of},
};

impl Client {
    /// All images, by name.
    ///
    /// # Errors
    /// As every call.
    pub async fn images(&self) -> Result<Vec<Image>, ApiError> {
        self.call(Method::GET, "/v1/images", nothing).await
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

    /// Deletes an image.
    ///
    /// # Errors
    /// When there is none, or a VM uses it.
    pub async fn delete_image(&self, reference: &str) -> Result<(), ApiError> {
        self.ask(Method::DELETE, &format!("/v1/images/{}", segment(reference))).await
    }
}
