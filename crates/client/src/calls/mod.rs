//! The daemon's API, call by call.

mod images;
mod kernels;
mod vms;
mod watch;

use banger_api::{ApiError, DaemonStatus, ErrorKind, Operation};
use hyper::Method;
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    client::Client,
    connect::DaemonProcess,
    events::Events,
    fd_passing::FdPassingStream,
    http::{self, Body, empty_body, segment},
};

#[derive(Deserialize)]
struct NamedObject {
    name: String,
}

impl Client {
    /// Starts the daemon if none runs, and replaces a daemon whose program was replaced.
    ///
    /// # Errors
    /// Returns an error if it does not start, or the old one is busy.
    pub async fn ensure_daemon(&self) -> Result<(), ApiError> {
        self.send_retrying(Method::GET, "/v1/daemon", || Ok(empty_body())).await.map(drop)
    }

    /// Stops the daemon, if one runs, and starts it. VMs keep running.
    ///
    /// # Errors
    /// Returns an error if it is busy and `force` is not set, or if it does not start.
    pub async fn restart_daemon(&self, force: bool) -> Result<(), ApiError> {
        let start_lock = self.daemon.lock_start().await?;
        self.stop_daemon(force).await?;
        self.daemon.connect_or_start_locked(&start_lock).await.map(drop)
    }

    /// Replaces a daemon of another build by one of this build, unless another command has already done that.
    async fn replace_daemon(&self) -> Result<(), ApiError> {
        let start_lock = self.daemon.lock_start().await?;
        if let Some(stream) = self.daemon.connect().await? {
            let stream = FdPassingStream { stream, file: None };
            let build = Some(self.daemon.build()?.to_string());
            let response = self.send_over(stream, Method::GET, "/v1/operations", empty_body(), build).await;
            if !response.is_ok_and(|response| response.status().is_success()) {
                self.stop_daemon(false).await?;
            }
        }
        self.daemon.connect_or_start_locked(&start_lock).await.map(drop)
    }

    /// Stops the daemon and waits until it has ended; false if none runs. VMs keep running.
    ///
    /// # Errors
    /// Returns an error if it is busy and `force` is not set.
    pub async fn stop_daemon(&self, force: bool) -> Result<bool, ApiError> {
        let Some(stream) = self.daemon.connect().await? else { return Ok(false) };
        let process = DaemonProcess::of_peer(&stream)?;
        let path = format!("/v1/daemon/stop?force={force}");
        let stream = FdPassingStream { stream, file: None };
        match self.send_over(stream, Method::POST, &path, empty_body(), None).await {
            Ok(response) if !response.status().is_success() => return Err(http::read(response).await?),
            Ok(_) => {}
            // It is already ending: another command has stopped it.
            Err(error) if error.kind == ErrorKind::Io => {}
            Err(error) => return Err(error),
        }
        process.wait().await?;
        Ok(true)
    }

    /// Returns the daemon's status; `None` if none runs.
    ///
    /// # Errors
    /// Returns an error if its response is invalid.
    pub async fn daemon_status(&self) -> Result<Option<DaemonStatus>, ApiError> {
        self.call_running("/v1/daemon").await
    }

    /// Returns the names of all objects of `kind`: `vms`, `images`, `kernels` or `catalog/kernels`. Shell
    /// completion uses it, so it starts no daemon: if none runs, the list is empty.
    ///
    /// # Errors
    /// Returns an error if the daemon's response is invalid.
    pub async fn names(&self, kind: &str) -> Result<Vec<String>, ApiError> {
        let objects: Vec<NamedObject> = self.call_running(&format!("/v1/{kind}")).await?.unwrap_or_default();
        Ok(objects.into_iter().map(|object| object.name).collect())
    }

    /// Returns whether `status` is of the build that would be started now.
    ///
    /// # Errors
    /// Returns an error if the daemon's program cannot be examined.
    pub fn is_current(&self, status: &DaemonStatus) -> Result<bool, ApiError> {
        Ok(self.daemon.build()?.to_string() == status.build)
    }

    /// Repairs differences between the store and the host, and returns what was wrong.
    ///
    /// # Errors
    /// Returns an error if the store cannot be read.
    pub async fn repair(&self) -> Result<Vec<String>, ApiError> {
        self.call(Method::POST, "/v1/daemon/repair", empty_body).await
    }

    /// Returns the operations that are in progress or ended recently.
    ///
    /// # Errors
    /// Returns an error if the request fails.
    pub async fn operations(&self) -> Result<Vec<Operation>, ApiError> {
        self.call(Method::GET, "/v1/operations", empty_body).await
    }

    /// Returns all events of an operation, past and future. Closing the connection does not cancel it.
    ///
    /// # Errors
    /// Returns an error if there is no such operation.
    pub async fn follow_operation(&self, operation: &str) -> Result<Events, ApiError> {
        let path = format!("/v1/operations/{}/events", segment(operation));
        self.follow(Method::GET, &path, || Ok(empty_body())).await
    }

    /// Cancels an operation, which undoes its work and ends.
    ///
    /// # Errors
    /// Returns an error if there is no such operation.
    pub async fn cancel(&self, operation: &str) -> Result<(), ApiError> {
        self.call_empty(Method::DELETE, &format!("/v1/operations/{}", segment(operation))).await
    }

    /// Sends a request whose body can be created again, so that the request can be repeated to a daemon of the right
    /// build, or to a new one.
    pub(super) async fn send_retrying(
        &self,
        method: Method,
        path: &str,
        mut body: impl FnMut() -> Result<Body, ApiError>,
    ) -> Result<hyper::Response<hyper::body::Incoming>, ApiError> {
        match self.send(method.clone(), path, body()?).await {
            Err(error) if error.kind == ErrorKind::VersionSkew => self.replace_daemon().await?,
            // A daemon that is being killed may still accept connections; a GET is safe to repeat.
            Err(error) if error.kind == ErrorKind::Io && method == Method::GET => {}
            result => return result,
        }
        self.send(method, path, body()?).await
    }

    pub(super) async fn follow(
        &self,
        method: Method,
        path: &str,
        body: impl FnMut() -> Result<Body, ApiError>,
    ) -> Result<Events, ApiError> {
        Ok(Events::new(self.send_retrying(method, path, body).await?.into_body()))
    }

    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: impl Fn() -> Body,
    ) -> Result<T, ApiError> {
        http::read(self.send_retrying(method, path, || Ok(body())).await?).await
    }

    /// Returns the response of the running daemon, of any build, at `path`; `None` if none runs.
    pub(super) async fn call_running<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, ApiError> {
        let Some(stream) = self.daemon.connect().await? else { return Ok(None) };
        let stream = FdPassingStream { stream, file: None };
        let response = self.send_over(stream, Method::GET, path, empty_body(), None).await?;
        if response.status().is_success() {
            Ok(Some(http::read(response).await?))
        } else {
            Err(http::read(response).await?)
        }
    }

    pub(super) async fn call_empty(&self, method: Method, path: &str) -> Result<(), ApiError> {
        self.call::<serde_json::Value>(method, path, empty_body).await.map(drop)
    }
}
