//! Routes for logs, statistics and events.

use std::io;

use axum::{
    Json,
    body::Body,
    extract::{Path, Query, State},
    http::header,
    response::{IntoResponse, Response},
};
use banger_api::{ReadFlows, ReadLog, VmStats, WatchEvents};
use banger_engine::ByteStream;
use futures_util::stream;
use schemars::JsonSchema;
use serde::Deserialize;

use super::http::{ErrorResponse, JsonResult, Shared};
use crate::daemon::Daemon;

pub(super) async fn logs(
    State(daemon): Shared,
    Path(vm): Path<String>,
    Query(read): Query<ReadLog>,
) -> Result<Response, ErrorResponse> {
    Ok(byte_stream(&daemon, "application/octet-stream", daemon.engine.vms.logs(&vm, read)?))
}

pub(super) async fn flows(
    State(daemon): Shared,
    Path(vm): Path<String>,
    Query(read): Query<ReadFlows>,
) -> Result<Response, ErrorResponse> {
    let flows = daemon.engine.vms.flows(&vm, read).await?;
    Ok(byte_stream(&daemon, "application/x-ndjson", flows))
}

pub(super) async fn daemon_log(State(daemon): Shared, Query(read): Query<ReadLog>) -> Response {
    byte_stream(&daemon, "application/x-ndjson", daemon.engine.daemon_log(read))
}

pub(super) async fn events(State(daemon): Shared, Query(watch): Query<WatchEvents>) -> Response {
    byte_stream(&daemon, "application/x-ndjson", daemon.engine.events(watch))
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct StatsQuery {
    /// References, separated by commas, which no name or id contains.
    #[serde(default)]
    vms: String,
}

pub(super) async fn stats(
    State(daemon): Shared,
    Query(query): Query<StatsQuery>,
) -> JsonResult<Vec<VmStats>> {
    let references: Vec<_> =
        query.vms.split(',').filter(|reference| !reference.is_empty()).map(str::to_owned).collect();
    Ok(Json(daemon.engine.vms.stats(&references).await?))
}

/// Streams bytes as they arrive. When the daemon stops, it cuts the body off, so that no client takes that for its
/// end.
fn byte_stream(daemon: &Daemon, content_type: &str, parts: ByteStream) -> Response {
    let stopping = daemon.stopping.clone();
    let parts = stream::unfold((parts, stopping), |(mut parts, stopping)| async move {
        let part = tokio::select! {
            part = parts.recv() => Ok(part?),
            () = stopping.cancelled() => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "bangerd is stopping")),
        };
        Some((part, (parts, stopping)))
    });
    ([(header::CONTENT_TYPE, content_type)], Body::from_stream(parts)).into_response()
}
