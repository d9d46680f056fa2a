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

use super::http::{JsonBody, JsonResult, Shared, body_reader, event_stream};

pub(super) async fn kernels(State(daemon): Shared) -> JsonResult<Vec<Kernel>> {
    Ok(Json(daemon.engine.kernels.list()?))
}

pub(super) async fn available_kernels(State(daemon): Shared) -> JsonResult<Vec<AvailableKernel>> {
    Ok(Json(daemon.engine.kernels.available()?))
}

pub(super) async fn kernel(State(daemon): Shared, Path(kernel): Path<String>) -> JsonResult<Kernel> {
    let kernel = spawn_blocking(move || daemon.engine.kernels.show(&kernel)).await;
    Ok(Json(kernel.map_err(|error| ApiError::new(ErrorKind::Internal, error.to_string()))??))
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
    event_stream(daemon.engine.kernels.import(import.name, body_reader(body)))
}

pub(super) async fn pull_kernel(State(daemon): Shared, JsonBody(pull): JsonBody<Pull>) -> Response {
    event_stream(daemon.engine.kernels.pull(pull.name))
}

pub(super) async fn delete_kernel(State(daemon): Shared, Path(kernel): Path<String>) -> JsonResult<Value> {
    daemon.engine.kernels.delete(&kernel)?;
    Ok(Json(json!({})))
}
