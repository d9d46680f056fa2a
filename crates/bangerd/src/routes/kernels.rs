//! Routes for kernels.

use axum::{
    Json,
    body::Body,
    extract::{Path, Query, State},
    response::Response,
};
use banger_api::{ApiError, AvailableKernel, ErrorKind, Kernel, Name, Pull};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::http::{Answer, Checked, Shared, reader_of, stream_of};

pub(super) async fn kernels(State(daemon): Shared) -> Answer<Vec<Kernel>> {
    Ok(Json(daemon.engine.kernels.list()?))
}

pub(super) async fn available_kernels(State(daemon): Shared) -> Answer<Vec<AvailableKernel>> {
    Ok(Json(daemon.engine.kernels.available()?))
}

pub(super) async fn kernel(State(daemon): Shared, Path(kernel): Path<String>) -> Answer<Kernel> {
    let shown = spawn_blocking(move || daemon.engine.kernels.show(&kernel)).await;
    Ok(Json(shown.map_err(|error| ApiError::new(ErrorKind::Internal, error.to_string()))??))
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct ImportKernel {
    name: Name,
}

pub(super) async fn import_kernel(
    State(daemon): Shared,
    Query(import): Query<ImportKernel>,
    body: Body,
) -> Response {
    stream_of(daemon.engine.kernels.import(import.name, reader_of(body)))
}

pub(super) async fn pull_kernel(State(daemon): Shared, Checked(pull): Checked<Pull>) -> Response {
    stream_of(daemon.engine.kernels.pull(pull.name))
}

pub(super) async fn delete_kernel(State(daemon): Shared, Path(kernel): Path<String>) -> Answer<Value> {
    daemon.engine.kernels.delete(&kernel)?;
    Ok(Json(json!({})))
}
