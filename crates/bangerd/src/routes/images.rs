//! Images.

use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, Query, State},
    response::Response,
};
use banger_api::{Image, ImageName, PullImage};
use banger_engine::Tar;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Checked, Shared, reader_of, stream_of};
use crate::passed::PassedFile;

pub(super) async fn images(State(daemon): Shared) -> Answer<Vec<Image>> {
    Ok(Json(daemon.engine.images()?))
}

pub(super) async fn image(State(daemon): Shared, Path(image): Path<String>) -> Answer<Image> {
    Ok(Json(daemon.engine.image(&image)?))
}

#[derive(Deserialize)]
pub(super) struct ImportImage {
    name: ImageName,
}

/// The tar is the body, or a file that came with the request.
pub(super) async fn import_image(
    State(daemon): Shared,
    Query(import): Query<ImportImage>,
    Extension(passed): Extension<PassedFile>,
    body: Body,
) -> Response {
    let tar = passed.take().map_or_else(|| Tar::Stream(reader_of(body)), Tar::File);
    stream_of(daemon.engine.import_image(import.name, tar))
}

pub(super) async fn pull_image(State(daemon): Shared, Checked(pull): Checked<PullImage>) -> Response {
    stream_of(daemon.engine.pull_image(pull))
}

pub(super) async fn delete_image(State(daemon): Shared, Path(image): Path<String>) -> Answer<Value> {
    daemon.engine.delete_image(&image)?;
    Ok(Json(json!({})))
}
