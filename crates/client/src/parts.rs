//! An answer's bytes, as they come.

use banger_api::ApiError;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::http::broken;

/// Bytes as they come. Dropping it hangs up.
#[derive(Debug)]
pub struct Parts {
    body: Incoming,
}

impl Parts {
    pub(crate) fn new(body: Incoming) -> Self {
        Self { body }
    }

    /// The next of them; `None` when there are no more.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame.map_err(broken)?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}
