//! The routes of the API: short functions that parse requests, call the engine and build responses.

mod daemon;
mod http;
mod images;
mod kernels;
mod openapi;
mod vms;
mod watch;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Request, State},
    http::HeaderMap,
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use banger_api::{
    ApiError, AvailableKernel, BUILD_HEADER, Bundle, CatalogEntry, CommitVm, CreateVm, DaemonStatus,
    DeleteVm, ErrorKind, Event, Flow, Image, Kernel, KillVm, NameImage, Operation, PruneCache, Pruned,
    PublishPorts, Pull, PullImage, ReadFlows, ReadLog, RegisterImage, Remedy, RestartVm, SetVm, StartVm,
    StopVm, UnpublishPorts, Vm, VmStats, WatchEvents,
};
use banger_engine::with_requester;
use serde_json::Value;

use crate::daemon::{Daemon, Peer};
use http::{ErrorResponse, Shared};
use openapi::{Api, Doc};

/// Returns all routes.
pub(crate) fn routes(daemon: Arc<Daemon>) -> Router {
    api()
        .router()
        .fallback(|| async {
            ErrorResponse(ApiError::new(ErrorKind::NotFound, "there is no such route in this API"))
        })
        .layer(middleware::from_fn_with_state(daemon.clone(), require_same_build))
        .with_state(daemon)
}

/// The OpenAPI document of the routes.
async fn openapi() -> Json<Value> {
    Json(api().document())
}

fn api() -> Api {
    watching(kernels(images(vms(daemon(Api::new())))))
}

fn daemon(api: Api) -> Api {
    api.get("/v1/openapi.json", openapi, Doc::new("getOpenApi", "Get this document"))
        .get(
            "/v1/daemon",
            daemon::daemon_status,
            Doc::new("getDaemon", "Show the daemon's state").returns::<DaemonStatus>(),
        )
        .post(
            "/v1/daemon/stop",
            daemon::stop_daemon,
            Doc::new("stopDaemon", "Stop the daemon; VMs continue to run").query::<daemon::Stop>(),
        )
        .post(
            "/v1/daemon/repair",
            daemon::repair,
            Doc::new("repair", "Repair differences between the store and the host; returns what was wrong")
                .returns::<Vec<String>>(),
        )
        .get(
            "/v1/operations",
            daemon::operations,
            Doc::new("listOperations", "List operations, including those that ended recently")
                .returns::<Vec<Operation>>(),
        )
        .delete(
            "/v1/operations/{id}",
            daemon::cancel,
            Doc::new("cancelOperation", "Cancel an operation; it undoes its work"),
        )
        .get(
            "/v1/operations/{id}/events",
            daemon::follow,
            Doc::new("followOperation", "Follow an operation: its past events, then later ones")
                .runs::<Value>(),
        )
}

fn vms(api: Api) -> Api {
    api.get("/v1/vms", vms::vms, Doc::new("listVms", "List VMs").returns::<Vec<Vm>>())
        .post(
            "/v1/vms",
            vms::run_vm,
            Doc::new("createVm", "Create a VM, and start it").body::<CreateVm>().runs::<Vm>(),
        )
        .get("/v1/vms/{vm}", vms::vm, Doc::new("getVm", "Show a VM").returns::<Vm>())
        .patch(
            "/v1/vms/{vm}",
            vms::set_vm,
            Doc::new("setVm", "Change the hardware of a stopped VM").body::<SetVm>().runs::<Vm>(),
        )
        .delete(
            "/v1/vms/{vm}",
            vms::delete_vm,
            Doc::new("deleteVm", "Delete a VM with its disks").query::<DeleteVm>().runs::<Option<Vm>>(),
        )
        .get(
            "/v1/vms/{vm}/ended",
            vms::vm_ended,
            Doc::new("getEndedVm", "Show a VM once its VMM has exited").returns::<Vm>(),
        )
        .post(
            "/v1/vms/{vm}/start",
            vms::start_vm,
            Doc::new("startVm", "Start a VM").body::<StartVm>().runs::<Vm>(),
        )
        .post(
            "/v1/vms/{vm}/stop",
            vms::stop_vm,
            Doc::new("stopVm", "Shut a VM down; kill it after a timeout").body::<StopVm>().runs::<Vm>(),
        )
        .post(
            "/v1/vms/{vm}/restart",
            vms::restart_vm,
            Doc::new("restartVm", "Stop a VM and start it").body::<RestartVm>().runs::<Vm>(),
        )
        .post(
            "/v1/vms/{vm}/kill",
            vms::kill_vm,
            Doc::new("killVm", "Send a VM's VMM a signal").body::<KillVm>().runs::<Vm>(),
        )
        .post(
            "/v1/vms/{vm}/pause",
            vms::pause_vm,
            Doc::new("pauseVm", "Pause a running VM in memory").runs::<Vm>(),
        )
        .post(
            "/v1/vms/{vm}/resume",
            vms::resume_vm,
            Doc::new("resumeVm", "Continue a paused VM").runs::<Vm>(),
        )
        .post(
            "/v1/vms/{vm}/publish",
            vms::publish_ports,
            Doc::new("publishPorts", "Publish ports of a VM on the host").body::<PublishPorts>().runs::<Vm>(),
        )
        .post(
            "/v1/vms/{vm}/unpublish",
            vms::unpublish_ports,
            Doc::new("unpublishPorts", "Stop publishing ports of a VM").body::<UnpublishPorts>().runs::<Vm>(),
        )
        .post(
            "/v1/vms/{vm}/commit",
            images::commit_vm,
            Doc::new("commitVm", "Create an image from a stopped VM's disks")
                .body::<CommitVm>()
                .runs::<Image>(),
        )
        .get(
            "/v1/vms/{vm}/logs",
            watch::logs,
            Doc::new("getVmLog", "Read a log of a VM").query::<ReadLog>().bytes("application/octet-stream"),
        )
        .get(
            "/v1/vms/{vm}/network",
            watch::flows,
            Doc::new("getVmNetwork", "Read what a VM's network was asked for")
                .query::<ReadFlows>()
                .lines::<Flow>(),
        )
        .get(
            "/v1/vms/{vm}/tunnel",
            vms::tunnel,
            Doc::new("openTunnel", "Open a byte stream to a VM's agent, or to a vsock port of its guest")
                .query::<vms::Tunnel>()
                .upgrades(),
        )
}

fn images(api: Api) -> Api {
    api.get("/v1/images", images::images, Doc::new("listImages", "List images").returns::<Vec<Image>>())
        .post("/v1/images", images::import_image, Doc::new("importImage", "Create an image from a tar in the body").query::<images::ImportImage>().upload().runs::<Image>())
        .get("/v1/images/{image}", images::image, Doc::new("getImage", "Show an image").returns::<Image>())
        .delete("/v1/images/{image}", images::delete_image, Doc::new("deleteImage", "Delete an image that no VM uses"))
        .post("/v1/images/pull", images::pull_image, Doc::new("pullImage", "Pull an image from the catalog or a registry").body::<PullImage>().runs::<Image>())
        .post("/v1/images/register", images::register_image, Doc::new("registerImage", "Use an ext4 file of the host as an image").body::<RegisterImage>().runs::<Image>())
        .post("/v1/images/prune", images::prune_cache, Doc::new("pruneCache", "Empty the caches").body::<PruneCache>().runs::<Pruned>())
        .post("/v1/images/{image}/tag", images::tag_image, Doc::new("tagImage", "Add a second name to an image").body::<NameImage>().runs::<Image>())
        .post("/v1/images/{image}/rename", images::rename_image, Doc::new("renameImage", "Rename an image").body::<NameImage>().returns::<Image>())
        .post("/v1/images/{image}/promote", images::promote_image, Doc::new("promoteImage", "Copy a registered image into the store").runs::<Image>())
        .post("/v1/images/{image}/bundle", images::bundle_image, Doc::new("bundleImage", "Write an image to a file whose descriptor comes with the request").runs::<Bundle>())
        .post("/v1/bundles", images::import_bundle, Doc::new("importBundle", "Create an image from a bundle at a URL, or in a file whose descriptor comes with the request").query::<images::ImportBundle>().runs::<Image>())
        .get("/v1/catalog/images", images::catalog_images, Doc::new("listCatalogImages", "List the catalog's images").returns::<Vec<CatalogEntry>>())
        .post("/v1/catalog/refresh", images::refresh_catalogs, Doc::new("refreshCatalogs", "Download the catalogs at URLs").runs::<Value>())
}

fn kernels(api: Api) -> Api {
    api.get("/v1/kernels", kernels::kernels, Doc::new("listKernels", "List kernels").returns::<Vec<Kernel>>())
        .post(
            "/v1/kernels",
            kernels::import_kernel,
            Doc::new("importKernel", "Create a kernel from packages or files in the body")
                .query::<kernels::ImportKernel>()
                .upload()
                .runs::<Kernel>(),
        )
        .get(
            "/v1/kernels/{kernel}",
            kernels::kernel,
            Doc::new("getKernel", "Show a kernel").returns::<Kernel>(),
        )
        .delete(
            "/v1/kernels/{kernel}",
            kernels::delete_kernel,
            Doc::new("deleteKernel", "Delete a kernel that no VM uses"),
        )
        .post(
            "/v1/kernels/pull",
            kernels::pull_kernel,
            Doc::new("pullKernel", "Pull a kernel from the catalog").body::<Pull>().runs::<Kernel>(),
        )
        .get(
            "/v1/catalog/kernels",
            kernels::available_kernels,
            Doc::new("listCatalogKernels", "List the catalog's kernels").returns::<Vec<AvailableKernel>>(),
        )
}

fn watching(api: Api) -> Api {
    api.get(
        "/v1/daemon/logs",
        watch::daemon_log,
        Doc::new("getDaemonLog", "Read the daemon's log, lines of JSON").query::<ReadLog>().lines::<Value>(),
    )
    .get(
        "/v1/events",
        watch::events,
        Doc::new("getEvents", "Read events of VMs, images, kernels and operations")
            .query::<WatchEvents>()
            .lines::<Event>(),
    )
    .get(
        "/v1/stats",
        watch::stats,
        Doc::new("getStats", "Show the resource use of running VMs")
            .query::<watch::StatsQuery>()
            .returns::<Vec<VmStats>>(),
    )
}

/// Rejects clients of a different build before doing any work.
async fn require_same_build(
    State(daemon): Shared,
    headers: HeaderMap,
    request: Request,
    next: Next,
) -> Response {
    let ours = daemon.build.to_string();
    match headers.get(BUILD_HEADER) {
        Some(theirs) if theirs.as_bytes() != ours.as_bytes() => {
            let error =
                ApiError::new(ErrorKind::VersionSkew, "bangerd is a different build than this banger");
            ErrorResponse(error.remedy(Remedy::RestartDaemon)).into_response()
        }
        _ => match request.extensions().get::<Peer>() {
            Some(Peer(uid)) => with_requester(*uid, next.run(request)).await,
            None => next.run(request).await,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_openapi_document_matches_the_checked_in_file() {
        let document = format!("{:#}\n", api().document());
        banger_contract::check("docs/src/reference/openapi.json", &document);
    }

    #[test]
    fn operation_ids_are_unique() {
        let document = api().document();
        let paths = document["paths"].as_object().unwrap().values();
        let operations: Vec<_> = paths.flat_map(|methods| methods.as_object().unwrap().values()).collect();
        let ids: BTreeSet<_> =
            operations.iter().map(|operation| operation["operationId"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), operations.len());
    }
}
