//! Operations: running work that is reported as a stream of events, and cancelled when the client disconnects.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    sync::{Arc, Mutex, PoisonError},
};

use banger_api::{
    ApiError, ErrorKind, EventKind, GuestText, Id, Operation, OperationEvent, OperationKind, OperationState,
    Span, SubjectKind,
};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::{error::EngineError, event_log::EventLog, random::random_id, spans::Spans};

/// An operation's events; the last is `done` or `error`. Dropping the receiver disconnects the client.
pub type Events = mpsc::Receiver<OperationEvent>;

/// Events buffered for a slow client. Beyond that, progress is dropped and stages wait.
const BACKLOG: usize = 64;

/// Maximum number of an operation's events kept for later followers.
const MAX_HISTORY: usize = 256;

/// Duration for which an ended operation stays listed.
const RETENTION: SignedDuration = SignedDuration::from_mins(10);

/// Maximum number of ended operations that stay listed.
const MAX_ENDED: usize = 100;

tokio::task_local! {
    /// Uid of the user whose request is being handled.
    static REQUESTER_UID: u32;
}

/// Handles a request of user `uid`, who owns the operations that it starts.
pub async fn with_requester<T>(uid: u32, request: impl Future<Output = T>) -> T {
    REQUESTER_UID.scope(uid, request).await
}

/// An operation's context, through which its work reports events and notices cancellation.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    id: Id,
    events: mpsc::Sender<OperationEvent>,
    operations: Operations,
    /// Cancelled when the client disconnects (unless it detached), or requests it.
    pub(crate) cancel: CancellationToken,
    pub(crate) spans: Arc<Spans>,
}

/// All running operations, and those that ended recently.
#[derive(Debug, Clone, Default)]
pub(crate) struct Operations {
    event_log: EventLog,
    entries: Arc<Mutex<HashMap<Id, Entry>>>,
    ended: Arc<Notify>,
}

#[derive(Debug)]
struct Entry {
    operation: Operation,
    cancel: CancellationToken,
    /// The events that a later follower receives first.
    history: VecDeque<OperationEvent>,
    followers: Vec<mpsc::Sender<OperationEvent>>,
}

impl Entry {
    fn is_running(&self) -> bool {
        self.operation.state == OperationState::Running
    }

    /// Records `event` and sends it to all followers. Drops followers that read too slowly.
    fn record(&mut self, event: &OperationEvent) {
        match event {
            OperationEvent::Stage { stage } => {
                stage.clone_into(&mut self.operation.stage);
                (self.operation.done_bytes, self.operation.total_bytes) = (None, None);
            }
            OperationEvent::Progress { done, total } => {
                (self.operation.done_bytes, self.operation.total_bytes) = (Some(*done), *total);
            }
            _ => {}
        }
        let is_transient = matches!(
            event,
            OperationEvent::Progress { .. } | OperationEvent::Part { .. } | OperationEvent::Log { .. }
        );
        if !is_transient {
            if self.history.len() == MAX_HISTORY {
                self.history.pop_front();
            }
            self.history.push_back(event.clone());
        }
        self.followers.retain(|follower| match follower.try_send(event.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => is_transient,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        });
    }

    fn end(&mut self, state: OperationState) {
        self.operation.state = state;
        self.operation.ended_at = Some(Timestamp::now());
    }

    fn started_event(&self) -> EventKind {
        let Operation { id, kind, target, .. } = &self.operation;
        EventKind::OperationStarted { id: id.clone(), operation: *kind, name: target.clone() }
    }

    fn ended_event(&self, last: &OperationEvent) -> EventKind {
        let Operation { id, kind, target, .. } = &self.operation;
        let error = match last {
            OperationEvent::Error { error } => Some(error),
            _ => None,
        };
        EventKind::OperationEnded {
            id: id.clone(),
            operation: *kind,
            name: target.clone(),
            error: error.map(|error| error.kind),
            reason: error.map(|error| error.message.clone()),
        }
    }
}

/// The reaction to the client's disconnect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnDisconnect {
    Cancel,
    Continue,
}

impl Operations {
    /// Creates an empty table, which reports its operations to `event_log`.
    pub(crate) fn new(event_log: EventLog) -> Self {
        Self { event_log, ..Self::default() }
    }

    /// Starts `work` as an operation. It runs to its end, undo included, even if the client disconnects.
    pub(crate) fn start<T, W>(
        &self,
        kind: OperationKind,
        target: &str,
        on_disconnect: OnDisconnect,
        work: impl FnOnce(Context) -> W + Send + 'static,
    ) -> Events
    where
        T: Serialize + Send + 'static,
        W: Future<Output = Result<T, EngineError>> + Send + 'static,
    {
        self.start_and_then(kind, target, on_disconnect, work, |_, _| async {})
    }

    /// Starts `work` as [`start`](Self::start) does. Runs `after` once `done` is sent, with the stream still open.
    pub(crate) fn start_and_then<T, W, A>(
        &self,
        kind: OperationKind,
        target: &str,
        on_disconnect: OnDisconnect,
        work: impl FnOnce(Context) -> W + Send + 'static,
        after: impl FnOnce(T, mpsc::Sender<OperationEvent>) -> A + Send + 'static,
    ) -> Events
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
            state: OperationState::Running,
            done_bytes: None,
            total_bytes: None,
            owner: REQUESTER_UID.try_with(|uid| *uid).ok(),
            detached: on_disconnect == OnDisconnect::Continue,
            ended_at: None,
        };
        let entry = Entry {
            operation,
            cancel: context.cancel.clone(),
            history: VecDeque::new(),
            followers: Vec::new(),
        };
        self.prune();
        self.event_log.publish(entry.started_event());
        self.lock().insert(context.id.clone(), entry);
        let operations = self.clone();
        tokio::spawn(async move {
            context.send(OperationEvent::Started { operation: context.id.clone() }).await;
            let work = work(context.clone());
            tokio::pin!(work);
            let result = tokio::select! {
                result = &mut work => result,
                () = events.closed(), if on_disconnect == OnDisconnect::Cancel => {
                    context.cancel.cancel();
                    work.await
                }
            };
            let (last, value) = match result {
                Ok(value) => (done(&value, context.spans.take()), Some(value)),
                Err(error) => {
                    let error = ApiError::from(error);
                    tracing::warn!(operation = %context.id, ?kind, kind = %error.kind, message = %error.message, "operation failed");
                    (OperationEvent::Error { error }, None)
                }
            };
            operations.end(&context.id, &last);
            context.send_to_client(last).await;
            drop(context);
            if let Some(value) = value {
                after(value, events).await;
            }
        });
        receiver
    }

    /// Records the end of an operation, with `last` as its last event.
    fn end(&self, id: &Id, last: &OperationEvent) {
        if let Some(entry) = self.lock().get_mut(id) {
            entry.end(match last {
                OperationEvent::Error { error } if error.kind == ErrorKind::Cancelled => {
                    OperationState::Cancelled
                }
                OperationEvent::Error { .. } => OperationState::Failed,
                _ => OperationState::Done,
            });
            entry.record(last);
            entry.followers.clear();
            self.event_log.publish(entry.ended_event(last));
        }
        self.ended.notify_waiters();
    }

    /// Returns the running operations and those that ended recently, oldest first.
    pub(crate) fn list(&self) -> Vec<Operation> {
        self.prune();
        let mut list: Vec<_> = self.lock().values().map(|entry| entry.operation.clone()).collect();
        list.sort_by_key(|operation| operation.since);
        list
    }

    /// Removes operations that ended long ago.
    fn prune(&self) {
        let now = Timestamp::now();
        let mut entries = self.lock();
        entries
            .retain(|_, entry| entry.operation.ended_at.is_none_or(|at| now.duration_since(at) < RETENTION));
        let mut ended: Vec<_> = entries
            .values()
            .filter_map(|entry| Some((entry.operation.ended_at?, entry.operation.id.clone())))
            .collect();
        ended.sort();
        let excess = ended.len().saturating_sub(MAX_ENDED);
        for (_, id) in ended.drain(..excess) {
            entries.remove(&id);
        }
    }

    /// Returns the events of operation `id` so far, without progress and logs, and then new events until its end.
    pub(crate) fn follow(&self, id: &str) -> Result<Events, ApiError> {
        let mut entries = self.lock();
        let entry = find(&mut entries, id)?;
        let (events, receiver) = mpsc::channel(MAX_HISTORY + BACKLOG);
        for event in &entry.history {
            // The channel has room for all of the history.
            let _ = events.try_send(event.clone());
        }
        if entry.is_running() {
            entry.followers.push(events);
        }
        Ok(receiver)
    }

    /// Asks operation `id` to undo its work and end.
    pub(crate) fn cancel(&self, id: &str) -> Result<(), ApiError> {
        let mut entries = self.lock();
        let entry = find(&mut entries, id)?;
        if !entry.is_running() {
            let Operation { id, state, .. } = &entry.operation;
            let message = format!("operation {id} has already ended: {}", state.as_str());
            return Err(ApiError::new(ErrorKind::NotFound, message));
        }
        entry.cancel.cancel();
        Ok(())
    }

    /// Waits until no operation is running.
    pub(crate) async fn idle(&self) {
        loop {
            let ended = self.ended.notified();
            if !self.lock().values().any(Entry::is_running) {
                return;
            }
            ended.await;
        }
    }

    /// Does `work` unless an operation is running. None starts meanwhile.
    pub(crate) fn run_if_idle<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let entries = self.lock();
        let idle = !entries.values().any(Entry::is_running);
        idle.then(work)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Id, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Finds the operation by its id or a unique prefix of it.
fn find<'a>(entries: &'a mut HashMap<Id, Entry>, id: &str) -> Result<&'a mut Entry, ApiError> {
    let matching: Vec<Id> =
        entries.keys().filter(|known| !id.is_empty() && known.as_str().starts_with(id)).cloned().collect();
    let error = match matching.as_slice() {
        [one] => match entries.get_mut(one) {
            Some(entry) => return Ok(entry),
            None => return Err(no_operation(id)),
        },
        [] => no_operation(id),
        _ => ApiError::new(ErrorKind::Ambiguous, format!("several operations begin with {id:?}"))
            .about(SubjectKind::Operation, id),
    };
    Err(error)
}

fn no_operation(id: &str) -> ApiError {
    ApiError::new(ErrorKind::NotFound, format!("there is no operation {id:?}"))
        .about(SubjectKind::Operation, id)
}

/// Returns `text`, which may quote a guest, a registry or an archive, as one bounded line.
fn line(text: &str) -> String {
    GuestText::new(text).to_string()
}

fn done<T: Serialize>(value: &T, spans: Vec<Span>) -> OperationEvent {
    match serde_json::to_value(value) {
        Ok(result) => OperationEvent::Done { result, spans },
        Err(error) => OperationEvent::Error { error: ApiError::new(ErrorKind::Internal, error.to_string()) },
    }
}

impl Context {
    /// Returns the operation's id.
    pub(crate) fn id(&self) -> &Id {
        &self.id
    }

    /// Sends `event` to the client and to all followers, and keeps it for later ones.
    async fn send(&self, event: OperationEvent) {
        self.record(&event);
        self.send_to_client(event).await;
    }

    fn record(&self, event: &OperationEvent) {
        if let Some(entry) = self.operations.lock().get_mut(&self.id) {
            entry.record(event);
        }
    }

    /// Sends `event` to the client. If the client is gone, the work continues; `cancel` undoes it where needed.
    async fn send_to_client(&self, event: OperationEvent) {
        if self.events.send(event).await.is_err() {
            tracing::debug!(operation = %self.id, "the client has disconnected");
        }
    }

    /// Reports the stage that begins now.
    pub(crate) async fn stage(&self, stage: impl Into<String>) {
        let stage = line(&stage.into());
        tracing::info!(operation = %self.id, stage);
        self.send(OperationEvent::Stage { stage }).await;
    }

    /// Reports useful information.
    pub(crate) async fn note(&self, message: impl Into<String>) {
        self.send(OperationEvent::Note { message: line(&message.into()) }).await;
    }

    /// Reports a warning to the user, and logs it.
    pub(crate) async fn warn(&self, message: impl Into<String>) {
        let message = line(&message.into());
        tracing::warn!(operation = %self.id, %message);
        self.send(OperationEvent::Warning { message }).await;
    }

    /// Returns an error if the operation is cancelled.
    pub(crate) fn check(&self) -> Result<(), EngineError> {
        if self.cancel.is_cancelled() { Err(EngineError::Cancelled) } else { Ok(()) }
    }

    /// Awaits `future` unless the operation is cancelled first.
    pub(crate) async fn unless_cancelled<T>(
        &self,
        future: impl Future<Output = Result<T, EngineError>>,
    ) -> Result<T, EngineError> {
        tokio::select! {
            result = future => result,
            () = self.cancel.cancelled() => Err(EngineError::Cancelled),
        }
    }

    /// Runs `work`, which is long and synchronous, off the async threads. Its progress reports the cancellation.
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

/// Progress of synchronous work. Stages wait for a slow client; progress and logs are dropped instead.
impl banger_image::Progress for Context {
    fn stage(&self, stage: &str) {
        tracing::info!(operation = %self.id, stage);
        let event = OperationEvent::Stage { stage: line(stage) };
        self.record(&event);
        // `cancelled` reports a client that is gone.
        let _ = self.events.blocking_send(event);
        banger_durable::reach_stage(stage);
    }
    fn bytes(&self, done: u64, total: Option<u64>) {
        let event = OperationEvent::Progress { done, total };
        self.record(&event);
        let _ = self.events.try_send(event);
    }
    fn part(&self, name: &str, done: u64, total: Option<u64>) {
        let event = OperationEvent::Part { name: line(name), done, total };
        self.record(&event);
        let _ = self.events.try_send(event);
    }
    fn log(&self, line: &str) {
        tracing::debug!(operation = %self.id, line);
        let event = OperationEvent::Log { line: self::line(line) };
        self.record(&event);
        let _ = self.events.try_send(event);
    }
    fn cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_operation_is_listed_with_its_stage_and_final_state() {
        let operations = Operations::default();
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        let mut events =
            operations.start(OperationKind::VmRun, "box", OnDisconnect::Cancel, |context| async move {
                context.stage("working").await;
                let _ = wait.await;
                Ok(7)
            });
        assert!(matches!(events.recv().await, Some(OperationEvent::Started { .. })));
        assert_eq!(events.recv().await, Some(OperationEvent::Stage { stage: "working".into() }));
        assert_eq!(operations.list()[0].stage, "working");
        go.send(()).unwrap();
        assert_eq!(events.recv().await, Some(OperationEvent::Done { result: 7.into(), spans: vec![] }));
        assert_eq!(events.recv().await, None);
        assert_eq!(operations.list()[0].state, OperationState::Done);
        assert!(operations.run_if_idle(|| ()).is_some());
    }

    #[tokio::test]
    async fn late_followers_receive_all_stages_and_the_result() {
        let operations = Operations::default();
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        let mut events =
            operations.start(OperationKind::VmRun, "box", OnDisconnect::Continue, |context| async move {
                context.stage("first").await;
                let _ = wait.await;
                context.stage("second").await;
                Ok(7)
            });
        let Some(OperationEvent::Started { operation }) = events.recv().await else { panic!() };
        assert_eq!(events.recv().await, Some(OperationEvent::Stage { stage: "first".into() }));
        drop(events);
        let mut early = operations.follow(operation.as_str()).unwrap();
        assert!(operations.run_if_idle(|| ()).is_none());
        go.send(()).unwrap();
        operations.idle().await;
        let mut late = operations.follow(&operation.as_str()[..8]).unwrap();
        for follower in [&mut early, &mut late] {
            let mut received = Vec::new();
            while let Some(event) = follower.recv().await {
                received.push(event);
            }
            assert_eq!(
                received[1..],
                [
                    OperationEvent::Stage { stage: "first".into() },
                    OperationEvent::Stage { stage: "second".into() },
                    OperationEvent::Done { result: 7.into(), spans: vec![] },
                ]
            );
        }
        assert_eq!(operations.follow("").unwrap_err().kind, ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn the_number_of_listed_ended_operations_is_limited() {
        let operations = Operations::default();
        for _ in 0..MAX_ENDED + 5 {
            let mut events =
                operations.start(OperationKind::VmSet, "box", OnDisconnect::Continue, |_| async { Ok(()) });
            while events.recv().await.is_some() {}
        }
        assert_eq!(operations.list().len(), MAX_ENDED);
    }

    #[tokio::test]
    async fn a_disconnect_cancels_an_operation_unless_it_is_detached() {
        for (on_disconnect, outcome) in
            [(OnDisconnect::Cancel, "cancelled"), (OnDisconnect::Continue, "finished")]
        {
            let operations = Operations::default();
            let (sender, receiver) = tokio::sync::oneshot::channel();
            let (go, wait) = tokio::sync::oneshot::channel::<()>();
            let events = operations.start(OperationKind::VmRun, "box", on_disconnect, |context| async move {
                let outcome = tokio::select! {
                    () = context.cancel.cancelled() => "cancelled",
                    _ = wait => "finished",
                };
                sender.send(outcome).unwrap();
                Ok(())
            });
            drop(events);
            if on_disconnect == OnDisconnect::Continue {
                go.send(()).unwrap();
            }
            assert_eq!(receiver.await.unwrap(), outcome);
        }
    }

    #[tokio::test]
    async fn an_operation_can_be_cancelled_by_its_id() {
        let operations = Operations::default();
        let mut events =
            operations.start(OperationKind::VmRun, "box", OnDisconnect::Continue, |context| async move {
                context.unless_cancelled(std::future::pending::<Result<(), _>>()).await
            });
        let Some(OperationEvent::Started { operation }) = events.recv().await else { panic!() };
        operations.cancel(operation.as_str()).unwrap();
        assert!(
            matches!(events.recv().await, Some(OperationEvent::Error { error }) if error.kind == ErrorKind::Cancelled)
        );
        assert_eq!(operations.cancel("nope").unwrap_err().kind, ErrorKind::NotFound);
    }
}
