//! Routes for logs, statistics and events.

use std::io;

use axum::{
    Json,
    body::Body,
    extract::{Path, Query, State},
    http::header,
    response::{IntoResponse, Response},
};
use banger_api::{ReadLog, VmStats, WatchEvents};
use banger_engine::Parts;
use futures_util::stream;
use schemars::JsonSchema;
use serde::Deserialize;

use super::http::{Answer, Failure, Shared};
use crate::daemon::Daemon;

pub(super) async fn logs(
    State(daemon): Shared,
    Path(vm): Path<String>,
    Query(read): Query<ReadLog>,
) -> Result<Response, Failure> {
    Ok(stream_of_parts(&daemon, "application/octet-stream", daemon.engine.vms.logs(&vm, read)?))
}

pub(super) async fn daemon_log(State(daemon): Shared, Query(read): Query<ReadLog>) -> Response {
    stream_of_parts(&daemon, "application/x-ndjson", daemon.engine.daemon_log(read))
}

pub(super) async fn events(State(daemon): Shared, Query(watch): Query<WatchEvents>) -> Response {
    stream_of_parts(&daemon, "application/x-ndjson", daemon.engine.events(watch))
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct Of {
    /// References, separated by commas, which no name or id contains.
    #[serde(default)]
    vms: String,
}

pub(super) async fn stats(State(daemon): Shared, Query(of): Query<Of>) -> Answer<Vec<VmStats>> {
    let references: Vec<_> =
        of.vms.split(',').filter(|reference| !reference.is_empty()).map(str::to_owned).collect();
    Ok(Json(daemon.engine.vms.stats(&references).await?))
}

/// Streams bytes as they arrive. When the daemon stops, it cuts the body off, so that no client takes that for its
/// end.
fn stream_of_parts(daemon: &Daemon, content_type: &str, parts: Parts) -> Response {
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
