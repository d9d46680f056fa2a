//! Kernels.

use banger_api::{ApiError, AvailableKernel, Kernel, Name, Pull};
use hyper::Method;
use tokio::io::AsyncRead;

use super::Client;
use crate::{
    events::Events,
    http::{empty_body, json_body, segment, stream_body},
};

impl Client {
    /// Returns all kernels, by name.
    ///
    /// # Errors
    /// Returns an error if the request fails.
    pub async fn kernels(&self) -> Result<Vec<Kernel>, ApiError> {
        self.call(Method::GET, "/v1/kernels", empty_body).await
    }

    /// Returns the catalog's kernels.
    ///
    /// # Errors
    /// Returns an error if the request fails.
    pub async fn available_kernels(&self) -> Result<Vec<AvailableKernel>, ApiError> {
        self.call(Method::GET, "/v1/catalog/kernels", empty_body).await
    }

    /// Returns the kernel that `reference` names.
    ///
    /// # Errors
    /// Returns an error if none or several match.
    pub async fn kernel(&self, reference: &str) -> Result<Kernel, ApiError> {
        self.call(Method::GET, &format!("/v1/kernels/{}", segment(reference)), empty_body).await
    }

    /// Creates a kernel from a package, a kernel, or a tar of these; the result is a [`Kernel`].
    ///
    /// A tar contains `kernel`, `config` and `modules/...`, and in `files/...` other packages or kernels.
    ///
    /// # Errors
    /// Returns an error if the request fails.
    pub async fn import_kernel(
        &self,
        name: &Name,
        bytes: impl AsyncRead + Send + 'static,
    ) -> Result<Events, ApiError> {
        self.ensure_daemon().await?;
        let path = format!("/v1/kernels?name={}", segment(name.as_str()));
        Ok(Events::new(self.send(Method::POST, &path, stream_body(bytes)).await?.into_body()))
    }

    /// Pulls a kernel from the catalog; the result is a [`Kernel`].
    ///
    /// # Errors
    /// Returns an error if the request fails.
    pub async fn pull_kernel(&self, name: &Name) -> Result<Events, ApiError> {
        self.follow(Method::POST, "/v1/kernels/pull", || json_body(&Pull { name: name.clone() })).await
    }

    /// Deletes a kernel.
    ///
    /// # Errors
    /// Returns an error if there is no such kernel, or a VM uses it.
    pub async fn delete_kernel(&self, reference: &str) -> Result<(), ApiError> {
        self.call_empty(Method::DELETE, &format!("/v1/kernels/{}", segment(reference))).await
    }
}
