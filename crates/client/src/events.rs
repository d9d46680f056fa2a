//! The events of an operation, as they arrive.

use banger_api::{ApiError, ErrorKind, Id, OperationEvent, Remedy, Span};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use crate::{
    byte_stream::ByteStream,
    json_lines::{JsonLines, invalid},
};

/// An operation's events. Dropping it closes the connection, which cancels the operation unless it is detached.
#[derive(Debug)]
pub struct Events {
    lines: JsonLines<OperationEvent>,
    operation: Option<Id>,
}

impl Events {
    pub(crate) fn new(body: Incoming) -> Self {
        Self { lines: JsonLines::new(ByteStream::new(body)), operation: None }
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
        let event = self.lines.next().await?;
        if let Some(OperationEvent::Started { operation }) = &event {
            self.operation = Some(operation.clone());
        }
        Ok(event)
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
                        serde_json::from_value(result).map_err(|error| invalid(&error.to_string()))?;
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
