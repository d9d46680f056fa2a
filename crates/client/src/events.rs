//! The events of an operation, as they arrive.

use banger_api::{ApiError, ErrorKind, Id, OperationEvent, Remedy, Span};
use bytes::BytesMut;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use crate::http::connection_error;

/// Maximum length of an event, in bytes.
const MAX_EVENT: usize = 4 << 20;

/// An operation's events. Dropping it closes the connection, which cancels the operation unless it is detached.
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    buffer: BytesMut,
    operation: Option<Id>,
}

impl Events {
    pub(crate) fn new(body: Incoming) -> Self {
        Self { body, buffer: BytesMut::new(), operation: None }
    }

    /// Returns the operation's id, once its first event has arrived.
    pub fn operation(&self) -> Option<&Id> {
        self.operation.as_ref()
    }

    /// Returns the next event; `None` at the end. It is cancel safe: no data is lost if the future is dropped.
    ///
    /// # Errors
    /// Returns an error if the connection breaks, or an event is invalid.
    pub async fn next(&mut self) -> Result<Option<OperationEvent>, ApiError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                let event =
                    serde_json::from_slice(&line).map_err(|error| invalid_event(&error.to_string()))?;
                if let OperationEvent::Started { operation } = &event {
                    self.operation = Some(operation.clone());
                }
                return Ok(Some(event));
            }
            if self.buffer.len() > MAX_EVENT {
                return Err(invalid_event("an event is too long"));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(connection_error(error)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    /// Returns the operation's result, and passes every event to `on_event`.
    ///
    /// # Errors
    /// Returns the operation's own error, or one if the connection breaks before the operation ends.
    pub async fn result<T: DeserializeOwned>(
        &mut self,
        mut on_event: impl FnMut(&OperationEvent),
    ) -> Result<(T, Vec<Span>), ApiError> {
        while let Some(event) = self.next().await? {
            on_event(&event);
            match event {
                OperationEvent::Done { result, spans } => {
                    let result =
                        serde_json::from_value(result).map_err(|error| invalid_event(&error.to_string()))?;
                    return Ok((result, spans));
                }
                OperationEvent::Error { error } => return Err(error),
                _ => {}
            }
        }
        let message = "bangerd exited during the operation; its next start undoes the unfinished work";
        Err(ApiError::new(ErrorKind::Io, message).remedy(Remedy::ReadDaemonLog))
    }
}

fn invalid_event(why: &str) -> ApiError {
    ApiError::new(ErrorKind::Internal, format!("bangerd sent an invalid event: {why}"))
}
