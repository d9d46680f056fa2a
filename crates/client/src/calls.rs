//! The daemon's API, call by call.

use std::fs::File;

use banger_api::{
    ApiError, CreateVm, DaemonStatus, Dirs, ErrorKind, Image, Kernel, LogSource, Name, Operation, Pull, Vm,
};
use bytes::Bytes;
use hyper::Method;
use serde::de::DeserializeOwned;
use tokio::io::AsyncRead;

use crate::{
    connect::Daemon,
    events::Events,
    http::{self, Body, Tunnel, json, nothing, segment, stream_of},
    passing::Passing,
};

/// A client of the daemon. Each call is a connection of its own.
#[derive(Debug)]
pub struct Client {
    pub(crate) daemon: Daemon,
}

impl Client {
    /// By this process's environment; nothing is connected or started yet.
    ///
    /// # Errors
    /// When there is nowhere to keep anything, or no daemon program.
    pub fn new() -> Result<Self, ApiError> {
        Ok(Self { daemon: Daemon::find()? })
    }

    /// banger's folders.
    pub fn dirs(&self) -> &Dirs {
        &self.daemon.dirs
    }

    /// Starts the daemon where none runs, and replaces one whose program has been replaced.
    ///
    /// # Errors
    /// When it does not start, or the old one is busy.
    pub async fn ensure_daemon(&self) -> Result<(), ApiError> {
        match self.send(Method::GET, "/v1/daemon", nothing()).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind == ErrorKind::VersionSkew => self.restart_daemon(false).await,
            Err(error) => Err(error),
        }
    }

    /// Stops the daemon, if one runs, and starts it. VMs run on.
    ///
    /// # Errors
    /// When it is busy, unless by `force`; when it does not start.
    pub async fn restart_daemon(&self, force: bool) -> Result<(), ApiError> {
        self.stop_daemon(force).await?;
        self.daemon.reach_or_start().await.map(drop)
    }

    /// Stops the daemon and waits until it has let go of its folders; false when none runs. VMs run on.
    ///
    /// # Errors
    /// When it is busy, unless by `force`.
    pub async fn stop_daemon(&self, force: bool) -> Result<bool, ApiError> {
        let Some(stream) = self.daemon.reach().await? else { return Ok(false) };
        let path = format!("/v1/daemon/stop?force={force}");
        let response =
            self.send_over(Passing { stream, file: None }, Method::POST, &path, nothing(), None).await?;
        if !response.status().is_success() {
            return Err(http::read(response).await?);
        }
        self.daemon.gone().await?;
        Ok(true)
    }

    /// What the daemon says of itself; `None` when none runs.
    ///
    /// # Errors
    /// When it does not answer as it should.
    pub async fn daemon_status(&self) -> Result<Option<DaemonStatus>, ApiError> {
        let Some(stream) = self.daemon.reach().await? else { return Ok(None) };
        let response = self
            .send_over(Passing { stream, file: None }, Method::GET, "/v1/daemon", nothing(), None)
            .await?;
        if response.status().is_success() {
            Ok(Some(http::read(response).await?))
        } else {
            Err(http::read(response).await?)
        }
    }

    /// What is under way.
    ///
    /// # Errors
    /// As every call.
    pub async fn operations(&self) -> Result<Vec<Operation>, ApiError> {
        self.call(Method::GET, "/v1/operations", nothing).await
    }

    /// Asks an operation to undo what it has done and end.
    ///
    /// # Errors
    /// When there is no such operation.
    pub async fn cancel(&self, operation: &str) -> Result<(), ApiError> {
        self.ask(Method::DELETE, &format!("/v1/operations/{}", segment(operation))).await
    }

    /// All VMs, the oldest first.
    ///
    /// # Errors
    /// As every call.
    pub async fn vms(&self) -> Result<Vec<Vm>, ApiError> {
        self.call(Method::GET, "/v1/vms", nothing).await
    }

    /// The VM that `reference` names.
    ///
    /// # Errors
    /// When none or several do.
    pub async fn vm(&self, reference: &str) -> Result<Vm, ApiError> {
        self.call(Method::GET, &vm_path(reference), nothing).await
    }

    /// The VM that `reference` names, once it has been seen to end, or after a while if it does not.
    ///
    /// # Errors
    /// When none or several do.
    pub async fn vm_ended(&self, reference: &str) -> Result<Vm, ApiError> {
        self.call(Method::GET, &format!("{}/ended", vm_path(reference)), nothing).await
    }

    /// Makes a VM and starts it; its result is a [`Vm`].
    ///
    /// # Errors
    /// When the request makes no sense.
    pub async fn run_vm(&self, request: &CreateVm) -> Result<Events, ApiError> {
        self.follow(Method::POST, "/v1/vms", || json(request)).await
    }

    /// Starts a VM; its result is a [`Vm`].
    ///
    /// # Errors
    /// When there is no such VM.
    pub async fn start_vm(&self, reference: &str) -> Result<Events, ApiError> {
        self.follow(Method::POST, &format!("{}/start", vm_path(reference)), || Ok(nothing())).await
    }

    /// Stops a VM; its result is a [`Vm`].
    ///
    /// # Errors
    /// When there is no such VM.
    pub async fn stop_vm(&self, reference: &str) -> Result<Events, ApiError> {
        self.follow(Method::POST, &format!("{}/stop", vm_path(reference)), || Ok(nothing())).await
    }

    /// Deletes a VM, with `force` also one that is being started or stopped; its result is nothing.
    ///
    /// # Errors
    /// When there is no such VM.
    pub async fn delete_vm(&self, reference: &str, force: bool) -> Result<Events, ApiError> {
        let path = format!("{}?force={force}", vm_path(reference));
        self.follow(Method::DELETE, &path, || Ok(nothing())).await
    }

    /// A log of a VM.
    ///
    /// # Errors
    /// When there is no such VM.
    pub async fn logs(&self, reference: &str, source: LogSource) -> Result<Bytes, ApiError> {
        let source = match source {
            LogSource::Console => "console",
            LogSource::Vmm => "vmm",
        };
        let path = format!("{}/logs?source={source}", vm_path(reference));
        http::read_bytes(self.sent(Method::GET, &path, || Ok(nothing())).await?).await
    }

    /// A raw stream to a port of a running VM's guest.
    ///
    /// # Errors
    /// When there is no such VM, it does not run, or nothing listens there.
    pub async fn tunnel(&self, reference: &str, port: u32) -> Result<Tunnel, ApiError> {
        let path = format!("{}/tunnel?port={port}", vm_path(reference));
        http::upgraded(self.sent(Method::GET, &path, || Ok(nothing())).await?).await
    }

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
    pub async fn import_image_file(&self, name: &Name, tar: File) -> Result<Events, ApiError> {
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
        name: &Name,
        tar: impl AsyncRead + Send + 'static,
    ) -> Result<Events, ApiError> {
        // The tar can be sent once only.
        self.ensure_daemon().await?;
        let path = format!("/v1/images?name={}", segment(name.as_str()));
        Ok(Events::new(self.send(Method::POST, &path, stream_of(tar)).await?.into_body()))
    }

    /// Gets an image from the catalog; its result is an [`Image`].
    ///
    /// # Errors
    /// As every call.
    pub async fn pull_image(&self, name: &Name) -> Result<Events, ApiError> {
        self.follow(Method::POST, "/v1/images/pull", || json(&Pull { name: name.clone() })).await
    }

    /// Deletes an image.
    ///
    /// # Errors
    /// When there is none, or a VM uses it.
    pub async fn delete_image(&self, reference: &str) -> Result<(), ApiError> {
        self.ask(Method::DELETE, &format!("/v1/images/{}", segment(reference))).await
    }

    /// All kernels, by name.
    ///
    /// # Errors
    /// As every call.
    pub async fn kernels(&self) -> Result<Vec<Kernel>, ApiError> {
        self.call(Method::GET, "/v1/kernels", nothing).await
    }

    /// The kernel that `reference` names.
    ///
    /// # Errors
    /// When none or several do.
    pub async fn kernel(&self, reference: &str) -> Result<Kernel, ApiError> {
        self.call(Method::GET, &format!("/v1/kernels/{}", segment(reference)), nothing).await
    }

    /// Makes a kernel of a Debian package, or of a tar with `kernel` and `modules/`; its result is a [`Kernel`].
    ///
    /// # Errors
    /// As every call.
    pub async fn import_kernel(
        &self,
        name: &Name,
        is_deb: bool,
        bytes: impl AsyncRead + Send + 'static,
    ) -> Result<Events, ApiError> {
        self.ensure_daemon().await?;
        let format = if is_deb { "deb" } else { "files" };
        let path = format!("/v1/kernels?name={}&format={format}", segment(name.as_str()));
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

    /// Sends a request whose body can be made again, so that it can be sent again to a daemon of the right build, or to
    /// one that lives.
    async fn sent(
        &self,
        method: Method,
        path: &str,
        mut body: impl FnMut() -> Result<Body, ApiError>,
    ) -> Result<hyper::Response<hyper::body::Incoming>, ApiError> {
        match self.send(method.clone(), path, body()?).await {
            Err(error) if error.kind == ErrorKind::VersionSkew => self.restart_daemon(false).await?,
            // A daemon that is just being killed still takes connections; a question can be asked again.
            Err(error) if error.kind == ErrorKind::Io && method == Method::GET => {}
            result => return result,
        }
        self.send(method, path, body()?).await
    }

    async fn follow(
        &self,
        method: Method,
        path: &str,
        body: impl FnMut() -> Result<Body, ApiError>,
    ) -> Result<Events, ApiError> {
        Ok(Events::new(self.sent(method, path, body).await?.into_body()))
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: impl Fn() -> Body,
    ) -> Result<T, ApiError> {
        http::read(self.sent(method, path, || Ok(body())).await?).await
    }

    async fn ask(&self, method: Method, path: &str) -> Result<(), ApiError> {
        self.call::<serde_json::Value>(method, path, nothing).await.map(drop)
    }
}

fn vm_path(reference: &str) -> String {
    format!("/v1/vms/{}", segment(reference))
}
