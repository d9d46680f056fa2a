//! Requests and responses in the API's format.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{FromRequest, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use banger_api::{ApiError, ErrorKind};
use banger_engine::Events;
use futures_util::stream;
use serde::de::DeserializeOwned;
use tokio_util::io::{StreamReader, SyncIoBridge};

use crate::{daemon::Daemon, upload::Upload};

pub(super) type Shared = State<Arc<Daemon>>;
pub(super) type JsonResult<T> = Result<Json<T>, ErrorResponse>;

/// An error as a response.
#[derive(Debug)]
pub(super) struct ErrorResponse(pub(super) ApiError);

impl From<ApiError> for ErrorResponse {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for ErrorResponse {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.0)).into_response()
    }
}

/// A JSON body; a malformed one is rejected with an API error that says why.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = ErrorResponse;

    async fn from_request(request: Request, state: &S) -> Result<Self, Self::Rejection> {
        let invalid = |why: String| {
            ErrorResponse(ApiError::new(ErrorKind::Invalid, format!("malformed request: {why}")))
        };
        let body = Bytes::from_request(request, state).await.map_err(|error| invalid(error.to_string()))?;
        // All options may be omitted.
        let body = if body.is_empty() { Bytes::from_static(b"{}") } else { body };
        serde_json::from_slice(&body).map(Self).map_err(|error| invalid(error.to_string()))
    }
}

/// Returns an operation's events as lines of JSON. When the client disconnects, the body is dropped, and the events
/// with it.
pub(super) fn event_stream(events: Events) -> Response {
    let lines = stream::unfold(events, |mut events| async move {
        let event = events.recv().await?;
        let mut line = serde_json::to_vec(&event).unwrap_or_default();
        line.push(b'\n');
        Some((Ok::<_, Infallible>(Bytes::from(line)), events))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

/// Returns a request's body as a reader for synchronous code.
pub(super) fn body_reader(body: Body) -> SyncIoBridge<StreamReader<Upload, Bytes>> {
    SyncIoBridge::new(StreamReader::new(Upload(Some(body.into_data_stream()))))
}
