//! Routes for VMs.

use std::io;

use axum::{
    Json,
    extract::{Path, Query, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use banger_api::{
    CreateVm, DeleteVm, KillVm, PublishPorts, RestartVm, SetVm, StartVm, StopVm, UnpublishPorts, Vm,
};
use hyper_util::rt::TokioIo;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::splice::splice;

use super::http::{ErrorResponse, JsonBody, JsonResult, Shared, event_stream};

pub(super) async fn vms(State(daemon): Shared) -> JsonResult<Vec<Vm>> {
    Ok(Json(daemon.engine.vms.list()?))
}

pub(super) async fn run_vm(
    State(daemon): Shared,
    JsonBody(request): JsonBody<CreateVm>,
) -> Result<Response, ErrorResponse> {
    Ok(event_stream(daemon.engine.vms.run(request)?))
}

pub(super) async fn vm(State(daemon): Shared, Path(vm): Path<String>) -> JsonResult<Vm> {
    Ok(Json(daemon.engine.vms.show(&vm)?))
}

pub(super) async fn vm_ended(State(daemon): Shared, Path(vm): Path<String>) -> JsonResult<Vm> {
    Ok(Json(daemon.engine.vms.show_ended(&vm).await?))
}

pub(super) async fn start_vm(
    State(daemon): Shared,
    Path(vm): Path<String>,
    JsonBody(options): JsonBody<StartVm>,
) -> Result<Response, ErrorResponse> {
    Ok(event_stream(daemon.engine.vms.start(&vm, options)?))
}

pub(super) async fn stop_vm(
    State(daemon): Shared,
    Path(vm): Path<String>,
    JsonBody(options): JsonBody<StopVm>,
) -> Result<Response, ErrorResponse> {
    Ok(event_stream(daemon.engine.vms.stop(&vm, options)?))
}

pub(super) async fn restart_vm(
    State(daemon): Shared,
    Path(vm): Path<String>,
    JsonBody(options): JsonBody<RestartVm>,
) -> Result<Response, ErrorResponse> {
    Ok(event_stream(daemon.engine.vms.restart(&vm, options)?))
}

pub(super) async fn kill_vm(
    State(daemon): Shared,
    Path(vm): Path<String>,
    JsonBody(kill): JsonBody<KillVm>,
) -> Result<Response, ErrorResponse> {
    Ok(event_stream(daemon.engine.vms.kill(&vm, kill)?))
}

pub(super) async fn pause_vm(
    State(daemon): Shared,
    Path(vm): Path<String>,
) -> Result<Response, ErrorResponse> {
    Ok(event_stream(daemon.engine.vms.pause(&vm)?))
}

pub(super) async fn resume_vm(
    State(daemon): Shared,
    Path(vm): Path<String>,
) -> Result<Response, ErrorResponse> {
    Ok(event_stream(daemon.engine.vms.resume(&vm)?))
}

pub(super) async fn set_vm(
    State(daemon): Shared,
    Path(vm): Path<String>,
    JsonBody(change): JsonBody<SetVm>,
) -> Result<Response, ErrorResponse> {
    Ok(event_stream(daemon.engine.vms.set(&vm, change)?))
}

pub(super) async fn publish_ports(
    State(daemon): Shared,
    Path(vm): Path<String>,
    JsonBody(ports): JsonBody<PublishPorts>,
) -> Result<Response, ErrorResponse> {
    Ok(event_stream(daemon.engine.vms.publish(&vm, ports)?))
}

pub(super) async fn unpublish_ports(
    State(daemon): Shared,
    Path(vm): Path<String>,
    JsonBody(ports): JsonBody<UnpublishPorts>,
) -> Result<Response, ErrorResponse> {
    Ok(event_stream(daemon.engine.vms.unpublish(&vm, ports)?))
}

pub(super) async fn delete_vm(
    State(daemon): Shared,
    Path(vm): Path<String>,
    Query(options): Query<DeleteVm>,
) -> Result<Response, ErrorResponse> {
    Ok(event_stream(daemon.engine.vms.delete(&vm, options.force)?))
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct Tunnel {
    /// Port of the guest; without it, its agent's. 1024 means its agent's too.
    #[serde(default)]
    port: Option<u32>,
}

/// Upgrades the connection to a raw stream to a port of the guest.
pub(super) async fn tunnel(
    State(daemon): Shared,
    Path(vm): Path<String>,
    Query(Tunnel { port }): Query<Tunnel>,
    mut request: Request,
) -> Result<Response, ErrorResponse> {
    let upgrade = hyper::upgrade::on(&mut request);
    let (guest, session) = daemon.engine.vms.tunnel(&vm, port).await?;
    tokio::spawn(async move {
        let spliced = match upgrade.await {
            Ok(client) => splice(TokioIo::new(client), guest).await,
            Err(error) => Err(io::Error::other(error)),
        };
        if let Err(error) = spliced {
            tracing::debug!(%error, "tunnel failed");
        }
        drop(session);
    });
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, "banger-tunnel")];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}
