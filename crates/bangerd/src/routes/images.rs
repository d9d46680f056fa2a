//! Routes for images.

use std::fs::File;

use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, Query, State},
    response::Response,
};
use banger_api::{
    ApiError, CatalogEntry, CommitVm, Digest, ErrorKind, Image, ImageName, NameImage, PruneCache, PullImage,
    RegisterImage,
};
use banger_engine::Tar;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::http::{ErrorResponse, JsonBody, JsonResult, Shared, body_reader, event_stream};
use crate::fd_passing::PassedFile;

pub(super) async fn images(State(daemon): Shared) -> JsonResult<Vec<Image>> {
    Ok(Json(daemon.engine.images.list()?))
}

pub(super) async fn catalog_images(State(daemon): Shared) -> JsonResult<Vec<CatalogEntry>> {
    Ok(Json(daemon.engine.images.available()?))
}

pub(super) async fn refresh_catalogs(State(daemon): Shared) -> Response {
    event_stream(daemon.engine.catalogs.refresh())
}

pub(super) async fn image(State(daemon): Shared, Path(image): Path<String>) -> JsonResult<Image> {
    Ok(Json(daemon.engine.images.show(&image)?))
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct ImportImage {
    name: ImageName,
}

/// Imports a tar: the body, or a file passed with the request.
pub(super) async fn import_image(
    State(daemon): Shared,
    Query(import): Query<ImportImage>,
    Extension(passed): Extension<PassedFile>,
    body: Body,
) -> Response {
    let tar = passed.take().map_or_else(|| Tar::Stream(body_reader(body)), Tar::File);
    event_stream(daemon.engine.images.import(import.name, tar))
}

pub(super) async fn pull_image(State(daemon): Shared, JsonBody(pull): JsonBody<PullImage>) -> Response {
    event_stream(daemon.engine.images.pull(pull))
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct ImportBundle {
    name: Option<ImageName>,
    sha256: Option<Digest>,
    url: Option<String>,
}

/// Imports a bundle from a URL, or from a file passed with the request.
pub(super) async fn import_bundle(
    State(daemon): Shared,
    Query(import): Query<ImportBundle>,
    Extension(passed): Extension<PassedFile>,
) -> Result<Response, ErrorResponse> {
    let ImportBundle { name, sha256, url } = import;
    Ok(event_stream(match url {
        Some(url) => daemon.engine.images.download_bundle(url, name, sha256),
        None => daemon.engine.images.import_bundle(passed_file(&passed)?, name, sha256),
    }))
}

/// Writes a bundle to a file passed with the request.
pub(super) async fn bundle_image(
    State(daemon): Shared,
    Path(image): Path<String>,
    Extension(passed): Extension<PassedFile>,
) -> Result<Response, ErrorResponse> {
    Ok(event_stream(daemon.engine.images.bundle(image, passed_file(&passed)?)))
}

fn passed_file(passed: &PassedFile) -> Result<File, ApiError> {
    passed.take().ok_or_else(|| ApiError::new(ErrorKind::Invalid, "no file was sent with the request"))
}

pub(super) async fn delete_image(State(daemon): Shared, Path(image): Path<String>) -> JsonResult<Value> {
    daemon.engine.images.delete(&image)?;
    Ok(Json(json!({})))
}

pub(super) async fn tag_image(
    State(daemon): Shared,
    Path(image): Path<String>,
    JsonBody(tag): JsonBody<NameImage>,
) -> Response {
    event_stream(daemon.engine.images.tag(image, tag))
}

pub(super) async fn rename_image(
    State(daemon): Shared,
    Path(image): Path<String>,
    JsonBody(rename): JsonBody<NameImage>,
) -> JsonResult<Image> {
    Ok(Json(daemon.engine.images.rename(&image, &rename.name)?))
}

pub(super) async fn register_image(
    State(daemon): Shared,
    JsonBody(register): JsonBody<RegisterImage>,
) -> Response {
    event_stream(daemon.engine.images.register(register))
}

pub(super) async fn promote_image(State(daemon): Shared, Path(image): Path<String>) -> Response {
    event_stream(daemon.engine.images.promote(image))
}

pub(super) async fn commit_vm(
    State(daemon): Shared,
    Path(vm): Path<String>,
    JsonBody(commit): JsonBody<CommitVm>,
) -> Result<Response, ErrorResponse> {
    Ok(event_stream(daemon.engine.vms.commit(&vm, commit)?))
}

pub(super) async fn prune_cache(State(daemon): Shared, JsonBody(prune): JsonBody<PruneCache>) -> Response {
    event_stream(daemon.engine.cache.prune(prune))
}
