//! The routes of the API: short functions that parse requests, call the engine and build responses.

mod daemon;
mod http;
mod images;
mod kernels;
mod vms;
mod watch;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    http::HeaderMap,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use banger_api::{ApiError, BUILD_HEADER, ErrorKind, Remedy};
use banger_engine::asked_by;

use crate::daemon::{Daemon, Peer};
use http::{Failure, Shared};

/// Returns all routes.
pub(crate) fn routes(daemon: Arc<Daemon>) -> Router {
    Router::new()
        .route("/v1/daemon", get(daemon::daemon_status))
        .route("/v1/daemon/stop", post(daemon::stop_daemon))
        .route("/v1/daemon/repair", post(daemon::repair))
        .route("/v1/daemon/logs", get(watch::daemon_log))
        .route("/v1/events", get(watch::events))
        .route("/v1/stats", get(watch::stats))
        .route("/v1/operations", get(daemon::operations))
        .route("/v1/operations/{id}", delete(daemon::cancel))
        .route("/v1/operations/{id}/events", get(daemon::follow))
        .route("/v1/vms", get(vms::vms).post(vms::run_vm))
        .route("/v1/vms/{vm}", get(vms::vm).patch(vms::set_vm).delete(vms::delete_vm))
        .route("/v1/vms/{vm}/ended", get(vms::vm_ended))
        .route("/v1/vms/{vm}/start", post(vms::start_vm))
        .route("/v1/vms/{vm}/stop", post(vms::stop_vm))
        .route("/v1/vms/{vm}/restart", post(vms::restart_vm))
        .route("/v1/vms/{vm}/kill", post(vms::kill_vm))
        .route("/v1/vms/{vm}/pause", post(vms::pause_vm))
        .route("/v1/vms/{vm}/resume", post(vms::resume_vm))
        .route("/v1/vms/{vm}/commit", post(images::commit_vm))
        .route("/v1/vms/{vm}/logs", get(watch::logs))
        .route("/v1/vms/{vm}/tunnel", get(vms::tunnel))
        .route("/v1/images", get(images::images).post(images::import_image))
        .route("/v1/bundles", post(images::import_bundle))
        .route("/v1/catalog/refresh", post(images::refresh_catalogs))
        .route("/v1/catalog/images", get(images::catalog_images))
        .route("/v1/images/pull", post(images::pull_image))
        .route("/v1/images/register", post(images::register_image))
        .route("/v1/images/prune", post(images::prune_cache))
        .route("/v1/images/{image}/tag", post(images::tag_image))
        .route("/v1/images/{image}/rename", post(images::rename_image))
        .route("/v1/images/{image}/promote", post(images::promote_image))
        .route("/v1/images/{image}", get(images::image).delete(images::delete_image))
        .route("/v1/images/{image}/bundle", post(images::bundle_image))
        .route("/v1/kernels", get(kernels::kernels).post(kernels::import_kernel))
        .route("/v1/catalog/kernels", get(kernels::available_kernels))
        .route("/v1/kernels/pull", post(kernels::pull_kernel))
        .route("/v1/kernels/{kernel}", get(kernels::kernel).delete(kernels::delete_kernel))
        .fallback(|| async {
            Failure(ApiError::new(ErrorKind::NotFound, "there is no such route in this API"))
        })
        .layer(middleware::from_fn_with_state(daemon.clone(), same_build))
        .with_state(daemon)
}

/// Rejects clients of a different build before doing any work.
async fn same_build(State(daemon): Shared, headers: HeaderMap, request: Request, next: Next) -> Response {
    let ours = daemon.build.to_string();
    match headers.get(BUILD_HEADER) {
        Some(theirs) if theirs.as_bytes() != ours.as_bytes() => {
            let error = ApiError::new(ErrorKind::VersionSkew, "bangerd is of another build than this banger");
            Failure(error.remedy(Remedy::RestartDaemon)).into_response()
        }
        _ => match request.extensions().get::<Peer>() {
            Some(Peer(uid)) => asked_by(*uid, next.run(request)).await,
            None => next.run(request).await,
        },
    }
}
