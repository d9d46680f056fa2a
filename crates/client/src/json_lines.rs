//! Values in a response, a line of JSON each, as they arrive.

use std::marker::PhantomData;

use banger_api::{ApiError, ErrorKind};
use bytes::BytesMut;
use serde::de::DeserializeOwned;

use crate::byte_stream::ByteStream;

/// Maximum length of a line, in bytes.
const MAX_LINE: usize = 4 << 20;

/// Values in a response, a line of JSON each. Dropping it closes the connection.
#[derive(Debug)]
pub struct JsonLines<T> {
    parts: ByteStream,
    buffer: BytesMut,
    value: PhantomData<T>,
}

impl<T: DeserializeOwned> JsonLines<T> {
    /// Reads the values in `parts`.
    pub fn new(parts: ByteStream) -> Self {
        Self { parts, buffer: BytesMut::new(), value: PhantomData }
    }

    /// Returns the next value; `None` at the end. It is cancel safe: no data is lost if the future is dropped.
    ///
    /// # Errors
    /// Returns an error if the connection breaks, or a line is invalid.
    pub async fn next(&mut self) -> Result<Option<T>, ApiError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return serde_json::from_slice(&line).map(Some).map_err(|error| invalid(&error.to_string()));
            }
            if self.buffer.len() > MAX_LINE {
                return Err(invalid("an event is too long"));
            }
            match self.parts.next().await? {
                None => return Ok(None),
                Some(part) => self.buffer.extend_from_slice(&part),
            }
        }
    }
}

pub(crate) fn invalid(why: &str) -> ApiError {
    ApiError::new(ErrorKind::Internal, format!("bangerd sent an invalid event: {why}"))
}
