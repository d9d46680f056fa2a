//! The events of an operation, as they come.

use banger_api::{ApiError, ErrorKind, Event, Id, Remedy, Span};
use bytes::BytesMut;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use crate::http::broken;

/// Most bytes of one event.
const LINE: usize = 4 << 20;

/// An operation's events. Dropping it hangs up, which cancels the operation unless it was asked to go on alone.
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

    /// The operation, once its first event has come.
    pub fn operation(&self) -> Option<&Id> {
        self.operation.as_ref()
    }

    /// The next event; `None` when there are no more. Nothing is lost when it is not waited for to the end.
    ///
    /// # Errors
    /// When the connection breaks, or what comes is no event.
    pub async fn next(&mut self) -> Result<Option<Event>, ApiError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                let event = serde_json::from_slice(&line).map_err(|error| nonsense(&error.to_string()))?;
                if let Event::Started { operation } = &event {
                    self.operation = Some(operation.clone());
                }
                return Ok(Some(event));
            }
            if self.buffer.len() > LINE {
                return Err(nonsense("an event is too long"));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(broken(error)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    /// The operation's result, with every event on the way given to `tell`.
    ///
    /// # Errors
    /// The operation's own, or when the connection breaks before it has ended.
    pub async fn result<T: DeserializeOwned>(
        &mut self,
        mut tell: impl FnMut(&Event),
    ) -> Result<(T, Vec<Span>), ApiError> {
        while let Some(event) = self.next().await? {
            tell(&event);
            match event {
                Event::Done { result, spans } => {
                    let result =
                        serde_json::from_value(result).map_err(|error| nonsense(&error.to_string()))?;
                    return Ok((result, spans));
                }
                Event::Error { error } => return Err(error),
                _ => {}
            }
        }
        let message = "bangerd went away in the middle of the operation; what it had begun is undone when it starts again";
        Err(ApiError::new(ErrorKind::Io, message).remedy(Remedy::ReadDaemonLog))
    }
}

fn nonsense(why: &str) -> ApiError {
    ApiError::new(ErrorKind::Internal, format!("bangerd's event makes no sense: {why}"))
}
