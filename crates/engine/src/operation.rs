//! Operations: running work that is reported as a stream of events, and cancelled when the client disconnects.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    sync::{Arc, Mutex, PoisonError},
};

use banger_api::{
    ApiError, ErrorKind, Event, HappeningKind, Id, Operation, OperationKind, OperationState, Span,
    SubjectKind,
};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::{error::EngineError, happenings::Happenings, random::random_id, spans::Spans};

/// An operation's events; the last is `done` or `error`. Dropping the receiver disconnects the client.
pub type Events = mpsc::Receiver<Event>;

/// Events buffered for a slow client. Beyond that, progress is dropped and stages wait.
const BACKLOG: usize = 64;

/// Maximum number of an operation's events kept for later followers.
const HISTORY: usize = 256;

/// Duration for which an ended operation stays listed.
const KEPT: SignedDuration = SignedDuration::from_mins(10);

/// Maximum number of ended operations that stay listed.
const MOST_KEPT: usize = 100;

tokio::task_local! {
    /// Uid of the user whose request is being handled.
    static ASKER: u32;
}

/// Handles a request of user `uid`, who owns the operations that it starts.
pub async fn asked_by<T>(uid: u32, request: impl Future<Output = T>) -> T {
    ASKER.scope(uid, request).await
}

/// An operation's context, through which its work reports events and notices cancellation.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    id: Id,
    events: mpsc::Sender<Event>,
    operations: Operations,
    /// Cancelled when the client disconnects (unless it detached), or requests it.
    pub(crate) cancel: CancellationToken,
    pub(crate) spans: Arc<Spans>,
}

/// All running operations, and those that ended recently.
#[derive(Debug, Clone, Default)]
pub(crate) struct Operations {
    happenings: Happenings,
    entries: Arc<Mutex<HashMap<Id, Entry>>>,
    ended: Arc<Notify>,
}

#[derive(Debug)]
struct Entry {
    operation: Operation,
    cancel: CancellationToken,
    /// The events that a later follower receives first.
    history: VecDeque<Event>,
    followers: Vec<mpsc::Sender<Event>>,
}

impl Entry {
    fn is_running(&self) -> bool {
        self.operation.state == OperationState::Running
    }

    /// Records `event` and sends it to all followers. Drops followers that read too slowly.
    fn note(&mut self, event: &Event) {
        match event {
            Event::Stage { stage } => {
                stage.clone_into(&mut self.operation.stage);
                (self.operation.done_bytes, self.operation.total_bytes) = (None, None);
            }
            Event::Progress { done, total } => {
                (self.operation.done_bytes, self.operation.total_bytes) = (Some(*done), *total);
            }
            _ => {}
        }
        let of_the_moment = matches!(event, Event::Progress { .. } | Event::Part { .. } | Event::Log { .. });
        if !of_the_moment {
            if self.history.len() == HISTORY {
                self.history.pop_front();
            }
            self.history.push_back(event.clone());
        }
        self.followers.retain(|follower| match follower.try_send(event.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => of_the_moment,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        });
    }

    fn end(&mut self, state: OperationState) {
        self.operation.state = state;
        self.operation.ended_at = Some(Timestamp::now());
    }

    fn began(&self) -> HappeningKind {
        let Operation { id, kind, target, .. } = &self.operation;
        HappeningKind::OperationStarted { id: id.clone(), operation: *kind, name: target.clone() }
    }

    fn ended(&self, last: &Event) -> HappeningKind {
        let Operation { id, kind, target, .. } = &self.operation;
        let error = match last {
            Event::Error { error } => Some(error),
            _ => None,
        };
        HappeningKind::OperationEnded {
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
pub(crate) enum OnHangUp {
    Cancel,
    GoOn,
}

impl Operations {
    /// Creates an empty table, which reports its operations to `happenings`.
    pub(crate) fn new(happenings: Happenings) -> Self {
        Self { happenings, ..Self::default() }
    }

    /// Starts `work` as an operation. It runs to its end, undo included, even if the client disconnects.
    pub(crate) fn start<T, W>(
        &self,
        kind: OperationKind,
        target: &str,
        hang_up: OnHangUp,
        work: impl FnOnce(Context) -> W + Send + 'static,
    ) -> Events
    where
        T: Serialize + Send + 'static,
        W: Future<Output = Result<T, EngineError>> + Send + 'static,
    {
        self.start_and_then(kind, target, hang_up, work, |_, _| async {})
    }

    /// Starts `work` as [`start`](Self::start) does. Runs `after` once `done` is sent, with the stream still open.
    pub(crate) fn start_and_then<T, W, A>(
        &self,
        kind: OperationKind,
        target: &str,
        hang_up: OnHangUp,
        work: impl FnOnce(Context) -> W + Send + 'static,
        after: impl FnOnce(T, mpsc::Sender<Event>) -> A + Send + 'static,
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
            owner: ASKER.try_with(|uid| *uid).ok(),
            detached: hang_up == OnHangUp::GoOn,
            ended_at: None,
        };
        let entry = Entry {
            operation,
            cancel: context.cancel.clone(),
            history: VecDeque::new(),
            followers: Vec::new(),
        };
        self.prune();
        self.happenings.tell(entry.began());
        self.lock().insert(context.id.clone(), entry);
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
            let (last, value) = match result {
                Ok(value) => (done(&value, context.spans.take()), Some(value)),
                Err(error) => {
                    let error = ApiError::from(error);
                    tracing::warn!(operation = %context.id, ?kind, kind = %error.kind, message = %error.message, "operation failed");
                    (Event::Error { error }, None)
                }
            };
            operations.end(&context.id, &last);
            context.pass_on(last).await;
            drop(context);
            if let Some(value) = value {
                after(value, events).await;
            }
        });
        receiver
    }

    /// Records the end of an operation, with `last` as its last event.
    fn end(&self, id: &Id, last: &Event) {
        if let Some(entry) = self.lock().get_mut(id) {
            entry.end(match last {
                Event::Error { error } if error.kind == ErrorKind::Cancelled => OperationState::Cancelled,
                Event::Error { .. } => OperationState::Failed,
                _ => OperationState::Done,
            });
            entry.note(last);
            entry.followers.clear();
            self.happenings.tell(entry.ended(last));
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
        entries.retain(|_, entry| entry.operation.ended_at.is_none_or(|at| now.duration_since(at) < KEPT));
        let mut ended: Vec<_> = entries
            .values()
            .filter_map(|entry| Some((entry.operation.ended_at?, entry.operation.id.clone())))
            .collect();
        ended.sort();
        let too_many = ended.len().saturating_sub(MOST_KEPT);
        for (_, id) in ended.drain(..too_many) {
            entries.remove(&id);
        }
    }

    /// Returns the events of operation `id` so far, without progress and logs, and then new events until its end.
    pub(crate) fn follow(&self, id: &str) -> Result<Events, ApiError> {
        let mut entries = self.lock();
        let entry = find(&mut entries, id)?;
        let (events, receiver) = mpsc::channel(HISTORY + BACKLOG);
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
    pub(crate) fn while_idle<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
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
    let fits: Vec<Id> =
        entries.keys().filter(|known| !id.is_empty() && known.as_str().starts_with(id)).cloned().collect();
    let error = match fits.as_slice() {
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

fn done<T: Serialize>(value: &T, spans: Vec<Span>) -> Event {
    match serde_json::to_value(value) {
        Ok(result) => Event::Done { result, spans },
        Err(error) => Event::Error { error: ApiError::new(ErrorKind::Internal, error.to_string()) },
    }
}

impl Context {
    /// Returns the operation's id.
    pub(crate) fn id(&self) -> &Id {
        &self.id
    }

    /// Sends `event` to the client and to all followers, and keeps it for later ones.
    async fn send(&self, event: Event) {
        self.record(&event);
        self.pass_on(event).await;
    }

    fn record(&self, event: &Event) {
        if let Some(entry) = self.operations.lock().get_mut(&self.id) {
            entry.note(event);
        }
    }

    /// Sends `event` to the client. If the client is gone, the work continues; `cancel` undoes it where needed.
    async fn pass_on(&self, event: Event) {
        if self.events.send(event).await.is_err() {
            tracing::debug!(operation = %self.id, "the client has disconnected");
        }
    }

    /// Reports the stage that begins now.
    pub(crate) async fn stage(&self, stage: impl Into<String>) {
        let stage = stage.into();
        tracing::info!(operation = %self.id, stage);
        self.send(Event::Stage { stage }).await;
    }

    /// Reports useful information.
    pub(crate) async fn note(&self, message: impl Into<String>) {
        self.send(Event::Note { message: message.into() }).await;
    }

    /// Reports a warning to the user, and logs it.
    pub(crate) async fn warn(&self, message: impl Into<String>) {
        let message = message.into();
        tracing::warn!(operation = %self.id, %message);
        self.send(Event::Warning { message }).await;
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
        let event = Event::Stage { stage: stage.to_owned() };
        self.record(&event);
        // `cancelled` reports a client that is gone.
        let _ = self.events.blocking_send(event);
        #[cfg(feature = "fail-points")]
        crate::fail::reach_stage(stage);
    }
    fn bytes(&self, done: u64, total: Option<u64>) {
        let event = Event::Progress { done, total };
        self.record(&event);
        let _ = self.events.try_send(event);
    }
    fn part(&self, name: &str, done: u64, total: Option<u64>) {
        let event = Event::Part { name: name.to_owned(), done, total };
        self.record(&event);
        let _ = self.events.try_send(event);
    }
    fn log(&self, line: &str) {
        tracing::debug!(operation = %self.id, line);
        let event = Event::Log { line: line.to_owned() };
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
    async fn an_operation_is_listed_until_it_ends_and_then_says_what_came_of_it() {
        let operations = Operations::default();
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        let mut events =
            operations.start(OperationKind::VmRun, "box", OnHangUp::Cancel, |context| async move {
                context.stage("working").await;
                let _ = wait.await;
                Ok(7)
            });
        assert!(matches!(events.recv().await, Some(Event::Started { .. })));
        assert_eq!(events.recv().await, Some(Event::Stage { stage: "working".into() }));
        assert_eq!(operations.list()[0].stage, "working");
        go.send(()).unwrap();
        assert_eq!(events.recv().await, Some(Event::Done { result: 7.into(), spans: vec![] }));
        assert_eq!(events.recv().await, None);
        assert_eq!(operations.list()[0].state, OperationState::Done);
        assert!(operations.while_idle(|| ()).is_some());
    }

    #[tokio::test]
    async fn one_who_follows_later_hears_all_that_matters() {
        let operations = Operations::default();
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        let mut events =
            operations.start(OperationKind::VmRun, "box", OnHangUp::GoOn, |context| async move {
                context.stage("first").await;
                let _ = wait.await;
                context.stage("second").await;
                Ok(7)
            });
        let Some(Event::Started { operation }) = events.recv().await else { panic!() };
        assert_eq!(events.recv().await, Some(Event::Stage { stage: "first".into() }));
        drop(events);
        let mut early = operations.follow(operation.as_str()).unwrap();
        assert!(operations.while_idle(|| ()).is_none());
        go.send(()).unwrap();
        operations.idle().await;
        let mut late = operations.follow(&operation.as_str()[..8]).unwrap();
        for follower in [&mut early, &mut late] {
            let mut told = Vec::new();
            while let Some(event) = follower.recv().await {
                told.push(event);
            }
            assert_eq!(
                told[1..],
                [
                    Event::Stage { stage: "first".into() },
                    Event::Stage { stage: "second".into() },
                    Event::Done { result: 7.into(), spans: vec![] },
                ]
            );
        }
        assert_eq!(operations.follow("").unwrap_err().kind, ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn of_those_that_have_ended_only_the_last_are_kept() {
        let operations = Operations::default();
        for _ in 0..MOST_KEPT + 5 {
            let mut events =
                operations.start(OperationKind::VmSet, "box", OnHangUp::GoOn, |_| async { Ok(()) });
            while events.recv().await.is_some() {}
        }
        assert_eq!(operations.list().len(), MOST_KEPT);
    }

    #[tokio::test]
    async fn hanging_up_cancels_unless_it_was_asked_to_go_on() {
        for (hang_up, outcome) in [(OnHangUp::Cancel, "cancelled"), (OnHangUp::GoOn, "finished")] {
            let operations = Operations::default();
            let (tell, told) = tokio::sync::oneshot::channel();
            let (go, wait) = tokio::sync::oneshot::channel::<()>();
            let events = operations.start(OperationKind::VmRun, "box", hang_up, |context| async move {
                let outcome = tokio::select! {
                    () = context.cancel.cancelled() => "cancelled",
                    _ = wait => "finished",
                };
                tell.send(outcome).unwrap();
                Ok(())
            });
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
        let mut events =
            operations.start(OperationKind::VmRun, "box", OnHangUp::GoOn, |context| async move {
                context.unless_cancelled(std::future::pending::<Result<(), _>>()).await
            });
        let Some(Event::Started { operation }) = events.recv().await else { panic!() };
        operations.cancel(operation.as_str()).unwrap();
        assert!(
            matches!(events.recv().await, Some(Event::Error { error }) if error.kind == ErrorKind::Cancelled)
        );
        assert_eq!(operations.cancel("nope").unwrap_err().kind, ErrorKind::NotFound);
    }
}
