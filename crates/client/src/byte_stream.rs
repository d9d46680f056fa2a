//! The bytes of a response, as they arrive.

use banger_api::ApiError;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::http::connection_error;

/// The bytes of a response, as they arrive. Dropping it closes the connection.
#[derive(Debug)]
pub struct ByteStream {
    body: Incoming,
}

impl ByteStream {
    pub(crate) fn new(body: Incoming) -> Self {
        Self { body }
    }

    /// Returns the next bytes; `None` at the end.
    ///
    /// # Errors
    /// Returns an error if the connection breaks.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame.map_err(connection_error)?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}
