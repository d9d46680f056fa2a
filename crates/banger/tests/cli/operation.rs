//! Operations of the daemon: a stream of events, cancelled by a request or by a disconnect.

use banger_api::{ApiError, ErrorKind, Id, OperationEvent};
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use crate::phases::Phases;

/// Events that a client has not read yet.
const BACKLOG: usize = 64;

/// What ends an operation early.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum OnDisconnect {
    Cancel,
    Continue,
}

/// A running operation.
pub(crate) struct Operation {
    pub(crate) id: Id,
    pub(crate) kind: &'static str,
    pub(crate) events: mpsc::Sender<OperationEvent>,
    pub(crate) cancelled: watch::Receiver<bool>,
}

/// Returns an operation, the stream of its events, and what cancels it.
pub(crate) fn operation(
    id: Id,
    kind: &'static str,
) -> (Operation, mpsc::Receiver<OperationEvent>, watch::Sender<bool>) {
    let (events, receiver) = mpsc::channel(BACKLOG);
    let (cancel, cancelled) = watch::channel(false);
    (Operation { id, kind, events, cancelled }, receiver, cancel)
}

/// Returns what the client prints once an operation has begun.
pub(crate) fn stage(kind: &str) -> String {
    format!("stage of {kind}")
}

impl Operation {
    /// Runs the operation to its end. `work` takes effect at once.
    pub(crate) async fn run(
        mut self,
        phases: &Phases,
        on_disconnect: OnDisconnect,
        work: impl FnOnce() -> Result<Value, ApiError>,
    ) -> bool {
        let kind = self.kind;
        self.send(OperationEvent::Started { operation: self.id.clone() }).await;
        // With progress, the client prints the stage.
        self.send(OperationEvent::Stage { stage: stage(kind) }).await;
        self.send(OperationEvent::Progress { done: 1, total: None }).await;
        let events = self.events.clone();
        let phase = format!("operation {kind}");
        let last = tokio::select! {
            () = phases.pass(&phase) => match work() {
                Ok(result) => OperationEvent::Done { result, spans: Vec::new() },
                Err(error) => OperationEvent::Error { error },
            },
            _ = self.cancelled.wait_for(|cancelled| *cancelled) => {
                phases.pass(&format!("undo {kind}")).await;
                OperationEvent::Error { error: ApiError::new(ErrorKind::Cancelled, "cancelled") }
            }
            () = events.closed(), if on_disconnect == OnDisconnect::Cancel => {
                phases.report(&format!("disconnected {kind}"));
                return false;
            }
        };
        let done = matches!(last, OperationEvent::Done { .. });
        self.send(last).await;
        phases.report(&format!("{} {kind}", if done { "done" } else { "undone" }));
        done
    }

    async fn send(&self, event: OperationEvent) {
        // The client may have disconnected.
        let _ = self.events.send(event).await;
    }
}
