//! Operations: what is under way, told as a stream of events, and cancelled when nobody listens any more.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
};

use banger_api::{ApiError, ErrorKind, Event, Id, Operation, OperationKind, Span};
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::{error::EngineError, random_id, spans::Spans};

/// Events a slow client may lag behind before progress is left out and stages wait.
const BACKLOG: usize = 64;

/// What an operation has to work with.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    id: Id,
    events: mpsc::Sender<Event>,
    operations: Operations,
    /// Cancelled when the client hung up (unless it detached), or asked for it.
    pub(crate) cancel: CancellationToken,
    pub(crate) spans: Arc<Spans>,
}

/// All operations under way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Operations {
    entries: Arc<Mutex<HashMap<Id, Entry>>>,
    ended: Arc<Notify>,
}

#[derive(Debug)]
struct Entry {
    operation: Operation,
    cancel: CancellationToken,
}

/// What happens when the client hangs up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnHangUp {
    Cancel,
    GoOn,
}

impl Operations {
    /// Starts `work` as an operation; its events come out of the receiver, the last being `done` or `error`. The work
    /// runs to its end, undo included, whether or not somebody listens.
    ///
    /// `after` runs when `done` has been sent, with the stream still open.
    pub(crate) fn start<T, W, A>(
        &self,
        kind: OperationKind,
        target: &str,
        hang_up: OnHangUp,
        work: impl FnOnce(Context) -> W + Send + 'static,
        after: impl FnOnce(T, mpsc::Sender<Event>) -> A + Send + 'static,
    ) -> mpsc::Receiver<Event>
    where
        T: Serialize + Send + 'static,
        W: Future<Output = Result<T, EngineError>> + Send + 'static,
        A: Future<Output = ()> + Send + 'static,
    {
        let (events, receiver) = mpsc::channel(BACKLOG);
        let context = Context {
            id: random_id(),
            events: events.clone(),
            operations: self.clone(),
            cancel: CancellationToken::new(),
            spans: Arc::default(),
        };
        let operation = Operation {
            id: context.id.clone(),
            kind,
            target: target.to_owned(),
            stage: String::new(),
            since: Timestamp::now(),
        };
        self.lock().insert(context.id.clone(), Entry { operation, cancel: context.cancel.clone() });
        let operations = self.clone();
        tokio::spawn(async move {
            context.send(Event::Started { operation: context.id.clone() }).await;
            let work = work(context.clone());
            tokio::pin!(work);
            let result = tokio::select! {
                result = &mut work => result,
                () = events.closed(), if hang_up == OnHangUp::Cancel => {
                    context.cancel.cancel();
                    work.await
                }
            };
            operations.lock().remove(&context.id);
            operations.ended.notify_waiters();
            match result {
                Ok(value) => {
                    context.send(done(&value, context.spans.take())).await;
                    drop(context);
                    after(value, events).await;
                }
                Err(error) => {
                    let error = ApiError::from(error);
                    tracing::warn!(operation = %context.id, ?kind, kind = %error.kind, message = %error.message, "operation failed");
                    context.send(Event::Error { error }).await;
                }
            }
        });
        receiver
    }

    /// What is under way.
    pub(crate) fn list(&self) -> Vec<Operation> {
        let mut list: Vec<_> = self.lock().values().map(|entry| entry.operation.clone()).collect();
        list.sort_by_key(|operation| operation.since);
        list
    }

    /// Asks operation `id` to undo what it has done and end.
    pub(crate) fn cancel(&self, id: &str) -> Result<(), ApiError> {
        let operations = self.lock();
        let entry = operations.iter().find(|(known, _)| known.as_str() == id).map(|(_, entry)| entry);
        let entry = entry.ok_or_else(|| {
            ApiError::new(ErrorKind::NotFound, format!("no operation {id}")).hint("it may have ended already")
        })?;
        entry.cancel.cancel();
        Ok(())
    }

    /// Waits until nothing is under way.
    pub(crate) async fn idle(&self) {
        loop {
            let ended = self.ended.notified();
            if self.lock().is_empty() {
                return;
            }
            ended.await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Id, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn done<T: Serialize>(value: &T, spans: Vec<Span>) -> Event {
    match serde_json::to_value(value) {
        Ok(result) => Event::Done { result, spans },
        Err(error) => Event::Error { error: ApiError::new(ErrorKind::Internal, error.to_string()) },
    }
}

impl Context {
    /// A client that has gone does not stop the work: what must be undone then is, by `cancel`.
    async fn send(&self, event: Event) {
        if self.events.send(event).await.is_err() {
            tracing::debug!(operation = %self.id, "nobody listens");
        }
    }

    /// Tells what is done from now on.
    pub(crate) async fn stage(&self, stage: impl Into<String>) {
        let stage = stage.into();
        self.note_stage(&stage);
        self.send(Event::Stage { stage }).await;
    }

    /// Tells something worth knowing.
    pub(crate) async fn note(&self, message: impl Into<String>) {
        self.send(Event::Note { message: message.into() }).await;
    }

    /// Tells something the user should know.
    pub(crate) async fn warn(&self, message: impl Into<String>) {
        let message = message.into();
        tracing::warn!(operation = %self.id, %message);
        self.send(Event::Warning { message }).await;
    }

    /// Fails when the operation is cancelled.
    pub(crate) fn check(&self) -> Result<(), EngineError> {
        if self.cancel.is_cancelled() { Err(EngineError::Cancelled) } else { Ok(()) }
    }

    /// `future`, unless the operation is cancelled first.
    pub(crate) async fn unless_cancelled<T>(
        &self,
        future: impl Future<Output = Result<T, EngineError>>,
    ) -> Result<T, EngineError> {
        tokio::select! {
            result = future => result,
            () = self.cancel.cancelled() => Err(EngineError::Cancelled),
        }
    }

    fn note_stage(&self, stage: &str) {
        if let Some(entry) = self.operations.lock().get_mut(&self.id) {
            stage.clone_into(&mut entry.operation.stage);
        }
        tracing::info!(operation = %self.id, stage);
    }

    /// Runs `work`, which is long and synchronous, off the async threads. It sees the cancellation by its progress.
    pub(crate) async fn blocking<T: Send + 'static, E: Into<EngineError> + Send + 'static>(
        &self,
        work: impl FnOnce(&Context) -> Result<T, E> + Send + 'static,
    ) -> Result<T, EngineError> {
        let context = self.clone();
        match tokio::task::spawn_blocking(move || work(&context)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) if self.cancel.is_cancelled() => Err(EngineError::Cancelled),
            Ok(Err(error)) => Err(error.into()),
            Err(error) => Err(ApiError::new(ErrorKind::Internal, error.to_string()).into()),
        }
    }
}

/// From synchronous work. Stages wait for a slow client; what is only of the moment does not.
impl banger_image::Progress for Context {
    fn stage(&self, stage: &str) {
        self.note_stage(stage);
        // A client that has gone is seen by `cancelled`.
        let _ = self.events.blocking_send(Event::Stage { stage: stage.to_owned() });
    }
    fn bytes(&self, done: u64, total: Option<u64>) {
        let _ = self.events.try_send(Event::Progress { done, total });
    }
    fn log(&self, line: &str) {
        tracing::debug!(operation = %self.id, line);
        let _ = self.events.try_send(Event::Log { line: line.to_owned() });
    }
    fn cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn nothing<T>(_: T, _: mpsc::Sender<Event>) {}

    #[tokio::test]
    async fn an_operation_is_listed_until_it_ends_and_then_says_what_came_of_it() {
        let operations = Operations::default();
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        let mut events = operations.start(
            OperationKind::VmRun,
            "box",
            OnHangUp::Cancel,
            |context| async move {
                context.stage("working").await;
                let _ = wait.await;
                Ok(7)
            },
            nothing,
        );
        assert!(matches!(events.recv().await, Some(Event::Started { .. })));
        assert_eq!(events.recv().await, Some(Event::Stage { stage: "working".into() }));
        assert_eq!(operations.list()[0].stage, "working");
        go.send(()).unwrap();
        assert_eq!(events.recv().await, Some(Event::Done { result: 7.into(), spans: vec![] }));
        assert_eq!(events.recv().await, None);
        assert!(operations.list().is_empty());
    }

    #[tokio::test]
    async fn hanging_up_cancels_unless_it_was_asked_to_go_on() {
        for (hang_up, outcome) in [(OnHangUp::Cancel, "cancelled"), (OnHangUp::GoOn, "finished")] {
            let operations = Operations::default();
            let (tell, told) = tokio::sync::oneshot::channel();
            let (go, wait) = tokio::sync::oneshot::channel::<()>();
            let events = operations.start(
                OperationKind::VmRun,
                "box",
                hang_up,
                |context| async move {
                    let outcome = tokio::select! {
                        () = context.cancel.cancelled() => "cancelled",
                        _ = wait => "finished",
                    };
                    tell.send(outcome).unwrap();
                    Ok(())
                },
                nothing,
            );
            drop(events);
            if hang_up == OnHangUp::GoOn {
                go.send(()).unwrap();
            }
            assert_eq!(told.await.unwrap(), outcome);
        }
    }

    #[tokio::test]
    async fn an_operation_can_be_cancelled_by_its_id() {
        let operations = Operations::default();
        let mut events = operations.start(
            OperationKind::VmRun,
            "box",
            OnHangUp::GoOn,
            |context| async move { context.unless_cancelled(std::future::pending::<Result<(), _>>()).await },
            nothing,
        );
        let Some(Event::Started { operation }) = events.recv().await else { panic!() };
        operations.cancel(operation.as_str()).unwrap();
        assert!(
            matches!(events.recv().await, Some(Event::Error { error }) if error.kind == ErrorKind::Cancelled)
        );
        assert_eq!(operations.cancel("nope").unwrap_err().kind, ErrorKind::NotFound);
    }
}
