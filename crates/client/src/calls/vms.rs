//! VMs.

use banger_api::{
    ApiError, CreateVm, KillVm, PublishPorts, RestartVm, SetVm, StartVm, StopVm, UnpublishPorts, Vm,
};
use hyper::Method;

use super::Client;
use crate::{
    events::Events,
    http::{self, Tunnel, empty_body, json_body, segment},
};

impl Client {
    /// Returns all VMs, oldest first.
    ///
    /// # Errors
    /// Returns an error if the request fails.
    pub async fn vms(&self) -> Result<Vec<Vm>, ApiError> {
        self.call(Method::GET, "/v1/vms", empty_body).await
    }

    /// Returns the VM that `reference` names.
    ///
    /// # Errors
    /// Returns an error if none or several match.
    pub async fn vm(&self, reference: &str) -> Result<Vm, ApiError> {
        self.call(Method::GET, &vm_path(reference), empty_body).await
    }

    /// Returns the VM that `reference` names once it has ended, or after a timeout if it does not end; `None` if no
    /// daemon runs. It does not start a daemon, because the user may have stopped it.
    ///
    /// # Errors
    /// Returns an error if none or several match.
    pub async fn vm_ended(&self, reference: &str) -> Result<Option<Vm>, ApiError> {
        self.call_running(&format!("{}/ended", vm_path(reference))).await
    }

    /// Creates and starts a VM; the result is a [`Vm`].
    ///
    /// # Errors
    /// Returns an error if the request is invalid.
    pub async fn run_vm(&self, request: &CreateVm) -> Result<Events, ApiError> {
        self.follow(Method::POST, "/v1/vms", || json_body(request)).await
    }

    /// Starts a VM; the result is a [`Vm`].
    ///
    /// # Errors
    /// Returns an error if there is no such VM.
    pub async fn start_vm(&self, reference: &str, options: &StartVm) -> Result<Events, ApiError> {
        self.follow(Method::POST, &format!("{}/start", vm_path(reference)), || json_body(options)).await
    }

    /// Stops a VM; the result is a [`Vm`].
    ///
    /// # Errors
    /// Returns an error if there is no such VM.
    pub async fn stop_vm(&self, reference: &str, options: StopVm) -> Result<Events, ApiError> {
        self.follow(Method::POST, &format!("{}/stop", vm_path(reference)), || json_body(&options)).await
    }

    /// Stops a VM and starts it again; the result is a [`Vm`].
    ///
    /// # Errors
    /// Returns an error if there is no such VM.
    pub async fn restart_vm(&self, reference: &str, options: &RestartVm) -> Result<Events, ApiError> {
        self.follow(Method::POST, &format!("{}/restart", vm_path(reference)), || json_body(options)).await
    }

    /// Sends a signal to a VM's VMM; the result is a [`Vm`].
    ///
    /// # Errors
    /// Returns an error if there is no such VM.
    pub async fn kill_vm(&self, reference: &str, kill: KillVm) -> Result<Events, ApiError> {
        self.follow(Method::POST, &format!("{}/kill", vm_path(reference)), || json_body(&kill)).await
    }

    /// Pauses a VM; the result is a [`Vm`].
    ///
    /// # Errors
    /// Returns an error if there is no such VM.
    pub async fn pause_vm(&self, reference: &str) -> Result<Events, ApiError> {
        self.follow(Method::POST, &format!("{}/pause", vm_path(reference)), || Ok(empty_body())).await
    }

    /// Resumes a paused VM; the result is a [`Vm`].
    ///
    /// # Errors
    /// Returns an error if there is no such VM.
    pub async fn resume_vm(&self, reference: &str) -> Result<Events, ApiError> {
        self.follow(Method::POST, &format!("{}/resume", vm_path(reference)), || Ok(empty_body())).await
    }

    /// Changes a VM's hardware; the result is a [`Vm`].
    ///
    /// # Errors
    /// Returns an error if there is no such VM, or the change is not possible.
    pub async fn set_vm(&self, reference: &str, change: SetVm) -> Result<Events, ApiError> {
        self.follow(Method::PATCH, &vm_path(reference), || json_body(&change)).await
    }

    /// Publishes ports of a VM; the result is a [`Vm`].
    ///
    /// # Errors
    /// Returns an error if there is no such VM.
    pub async fn publish(&self, reference: &str, ports: &PublishPorts) -> Result<Events, ApiError> {
        self.follow(Method::POST, &format!("{}/publish", vm_path(reference)), || json_body(ports)).await
    }

    /// Stops publishing ports of a VM; the result is a [`Vm`].
    ///
    /// # Errors
    /// Returns an error if there is no such VM.
    pub async fn unpublish(&self, reference: &str, ports: &UnpublishPorts) -> Result<Events, ApiError> {
        self.follow(Method::POST, &format!("{}/unpublish", vm_path(reference)), || json_body(ports)).await
    }

    /// Deletes a VM, with `force` even while it runs, starts or stops; the operation has no result.
    ///
    /// # Errors
    /// Returns an error if there is no such VM.
    pub async fn delete_vm(&self, reference: &str, force: bool) -> Result<Events, ApiError> {
        let path = format!("{}?force={force}", vm_path(reference));
        self.follow(Method::DELETE, &path, || Ok(empty_body())).await
    }

    /// Opens a raw stream to the agent of a running VM.
    ///
    /// # Errors
    /// Returns an error if there is no such VM, it does not run, or its agent does not listen.
    pub async fn tunnel(&self, reference: &str) -> Result<Tunnel, ApiError> {
        let path = format!("{}/tunnel", vm_path(reference));
        http::upgraded(self.send_retrying(Method::GET, &path, || Ok(empty_body())).await?).await
    }
}

pub(super) fn vm_path(reference: &str) -> String {
    format!("/v1/vms/{}", segment(reference))
}
