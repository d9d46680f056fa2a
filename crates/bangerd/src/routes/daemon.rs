//! Routes for the daemon itself and for operations.

use std::time::Duration;

use axum::{
    Json,
    extract::{Path, Query, State},
    response::Response,
};
use banger_api::{ApiError, DaemonStatus, ErrorKind, Operation, Remedy, VmState};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::http::{ErrorResponse, JsonResult, Shared, event_stream};

pub(super) async fn daemon_status(State(daemon): Shared) -> JsonResult<DaemonStatus> {
    let engine = &daemon.engine;
    let (vmm, kvm) = engine.describe_vmm().await;
    let running = engine.vms.list()?.iter().filter(|vm| vm.state == VmState::Running).count();
    Ok(Json(DaemonStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        build: daemon.build.to_string(),
        pid: std::process::id(),
        uptime_s: daemon.started.elapsed().as_secs(),
        resident: resident(),
        running_vms: u32::try_from(running).unwrap_or(u32::MAX),
        operations: u32::try_from(engine.running_operations().len()).unwrap_or(u32::MAX),
        socket: engine.dirs().socket().display().to_string(),
        state_dir: engine.dirs().state.display().to_string(),
        log: engine.dirs().daemon_log().display().to_string(),
        vmm,
        kvm,
        proxy: daemon.proxy.clone(),
    }))
}

/// Returns this process's resident memory in bytes (`/proc/self/statm`, second field, in pages).
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

/// Time that a stop waits for ending work: a client that has read an operation's end sends its next request at once.
const ENDING_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Deserialize, JsonSchema)]
pub(super) struct Stop {
    #[serde(default)]
    force: bool,
}

pub(super) async fn stop_daemon(
    State(daemon): Shared,
    Query(Stop { force }): Query<Stop>,
) -> JsonResult<Value> {
    if !force {
        let idle = async { tokio::join!(daemon.engine.idle(), daemon.engine.sessions_closed()) };
        // Work that continues is reported below.
        let _ = timeout(ENDING_TIMEOUT, idle).await;
    }
    let running = daemon.engine.running_operations();
    let sessions = daemon.engine.sessions();
    let busy = match running.first() {
        Some(operation) => Some(format!("{} ({})", operation.target, operation.stage)),
        None if sessions > 0 => Some(format!("{sessions} open session(s) with VMs")),
        None => None,
    };
    if let (Some(busy), false) = (busy, force) {
        let error = ApiError::new(ErrorKind::Busy, format!("bangerd is busy: {busy}"));
        return Err(error.remedy(Remedy::ForceDaemonStop).into());
    }
    daemon.stop.notify_one();
    Ok(Json(json!({})))
}

/// Repairs the host's state to match the store, and returns the problems found.
pub(super) async fn repair(State(daemon): Shared) -> JsonResult<Vec<String>> {
    Ok(Json(daemon.engine.repair().await?))
}

pub(super) async fn operations(State(daemon): Shared) -> Json<Vec<Operation>> {
    Json(daemon.engine.operations())
}

/// Streams an operation's past events, and later ones until its end.
pub(super) async fn follow(State(daemon): Shared, Path(id): Path<String>) -> Result<Response, ErrorResponse> {
    Ok(event_stream(daemon.engine.follow(&id)?))
}

pub(super) async fn cancel(State(daemon): Shared, Path(id): Path<String>) -> JsonResult<Value> {
    daemon.engine.cancel(&id)?;
    Ok(Json(json!({})))
}
