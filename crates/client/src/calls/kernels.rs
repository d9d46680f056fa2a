//! Kernels.

use banger_api::{ApiError, AvailableKernel, Kernel, Name, Pull};
use hyper::Method;
use tokio::io::AsyncRead;

use super::Client;
use crate::{
    events::Events,
    http::{json, nothing, segment, stream_of},
};

impl Client {
    /// All kernels, by name.
    ///
    /// # Errors
    /// As every call.
    pub async fn kernels(&self) -> Result<Vec<Kernel>, ApiError> {
        self.call(Method::GET, "/v1/kernels", nothing).await
    }

    /// The catalog's kernels.
    ///
    /// # Errors
    /// As every call.
    pub async fn available_kernels(&self) -> Result<Vec<AvailableKernel>, ApiError> {
        self.call(Method::GET, "/v1/catalog/kernels", nothing).await
    }

    /// The kernel that `reference` names.
    ///
    /// # Errors
    /// When none or several do.
    pub async fn kernel(&self, reference: &str) -> Result<Kernel, ApiError> {
        self.call(Method::GET, &format!("/v1/kernels/{}", segment(reference)), nothing).await
    }

    /// Makes a kernel of a package, a kernel, or a tar of such; its result is a [`Kernel`].
    ///
    /// In a tar are `kernel`, `config` and `modules/...`, and in `files/...` what else holds some of them.
    ///
    /// # Errors
    /// As every call.
    pub async fn import_kernel(
        &self,
        name: &Name,
        bytes: impl AsyncRead + Send + 'static,
    ) -> Result<Events, ApiError> {
        self.ensure_daemon().await?;
        let path = format!("/v1/kernels?name={}", segment(name.as_str()));
        Ok(Events::new(self.send(Method::POST, &path, stream_of(bytes)).await?.into_body()))
    }

    /// Gets a kernel from the catalog; its result is a [`Kernel`].
    ///
    /// # Errors
    /// As every call.
    pub async fn pull_kernel(&self, name: &Name) -> Result<Events, ApiError> {
        self.follow(Method::POST, "/v1/kernels/pull", || json(&Pull { name: name.clone() })).await
    }

    /// Deletes a kernel.
    ///
    /// # Errors
    /// When there is none, or a VM uses it.
    pub async fn delete_kernel(&self, reference: &str) -> Result<(), ApiError> {
        self.ask(Method::DELETE, &format!("/v1/kernels/{}", segment(reference))).await
    }
}
