//! The actor of a VM: the only task that changes the VM, and that notices when its processes exit.

use std::{collections::VecDeque, future::Future, pin::pin, sync::Arc, time::Duration};

use banger_api::{
    ApiError, CommitVm, Egress, ErrorKind, GuestSettings, Id, KillSignal, PublishPorts, Remedy, SetVm,
    SubjectKind, UnpublishPorts, VmName,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    change, commit, pause,
    policy::{Decision, Refusal, Request, Work, decide},
    preflight,
    process::{ProcessExit, VmProcesses},
    publish,
    services::Services,
    start, stop, verify,
};
use crate::{
    error::EngineError,
    operation::Context,
    store::{ImageRecord, VmRecord},
};

/// Time within which the VMM's own exit is noticed, after which its network ends.
const NETWORK_EXIT_GRACE: Duration = Duration::from_secs(1);

/// Maximum number of requests in the actor's queue; further requests are refused as busy.
const MAX_QUEUED: usize = 8;

/// A change to a VM. Its result carries no value.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Start(GuestSettings),
    /// Ends the VM by force after this timeout.
    Stop(Duration),
    Restart(Duration, GuestSettings),
    Kill(KillSignal),
    Pause,
    Resume,
    Set(SetVm),
    SetEgress(Egress),
    Publish(PublishPorts),
    Unpublish(UnpublishPorts),
    Delete {
        force: bool,
    },
}

/// Channel for the result of a request.
pub(super) type Answer<T> = oneshot::Sender<Result<T, EngineError>>;

/// A request to a VM's actor, with the channel for its answer.
#[derive(Debug)]
pub(super) enum ActorRequest {
    Change(Change, Answer<()>),
    /// Answers with the created image.
    Commit(CommitVm, Answer<ImageRecord>),
    /// Answers with the problems found.
    Verify(Answer<Vec<String>>),
}

impl ActorRequest {
    fn kind(&self) -> Request {
        match self {
            Self::Change(Change::Start(_), _) => Request::Start,
            Self::Change(Change::Stop(_), _) => Request::Stop,
            Self::Change(Change::Restart(..), _) => Request::Restart,
            Self::Change(Change::Kill(_), _) => Request::Kill,
            Self::Change(Change::Pause, _) => Request::Pause,
            Self::Change(Change::Resume, _) => Request::Resume,
            Self::Change(Change::Set(_), _) => Request::Set,
            Self::Change(Change::SetEgress(_), _) => Request::SetEgress,
            Self::Change(Change::Publish(_) | Change::Unpublish(_), _) => Request::Publish,
            Self::Change(Change::Delete { force }, _) => Request::Delete { force: *force },
            Self::Commit(..) => Request::Commit,
            Self::Verify(_) => Request::Verify,
        }
    }

    /// Answers that there was nothing to do.
    fn answer_no_op(self) {
        match self {
            Self::Change(_, answer) => send(answer, Ok(())),
            Self::Verify(answer) => send(answer, Ok(Vec::new())),
            // Unreachable: the policy never decides `Nothing` for a commit.
            Self::Commit(_, answer) => send(answer, Err(EngineError::Cancelled)),
        }
    }

    fn fail(self, error: EngineError) {
        match self {
            Self::Change(_, answer) => send(answer, Err(error)),
            Self::Commit(_, answer) => send(answer, Err(error)),
            Self::Verify(answer) => send(answer, Err(error)),
        }
    }
}

/// A request to a VM's actor, with the operation that it belongs to.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) request: ActorRequest,
    pub(super) context: Context,
}

/// State of the actor.
#[derive(Debug)]
pub(super) struct Actor {
    services: Arc<Services>,
    id: Id,
    inbox: mpsc::Receiver<Message>,
    queued: VecDeque<Message>,
    processes: VmProcesses,
}

impl Actor {
    /// Creates the actor of VM `id` with the VM's live processes, and the sender of its requests.
    pub(super) fn new(
        services: Arc<Services>,
        id: Id,
        processes: VmProcesses,
    ) -> (Self, mpsc::Sender<Message>) {
        let (sender, inbox) = mpsc::channel(MAX_QUEUED);
        (Self { services, id, inbox, queued: VecDeque::new(), processes }, sender)
    }

    /// Runs until the VM is deleted or the engine drops the sender.
    pub(super) async fn run(mut self) {
        loop {
            let message = match self.queued.pop_front() {
                Some(message) => message,
                None => tokio::select! {
                    message = self.inbox.recv() => match message {
                        Some(message) => message,
                        None => return,
                    },
                    exit = self.processes.first_exit() => {
                        self.handle_exit(exit).await;
                        continue;
                    }
                    exit = self.processes.first_network_exit() => {
                        self.handle_network_exit(exit).await;
                        continue;
                    }
                },
            };
            let record = match self.record() {
                Ok(record) => record,
                Err(error) => {
                    message.request.fail(error);
                    continue;
                }
            };
            let request = message.request.kind();
            // A start would create empty disks in place of those that are gone.
            if record.deleting && !matches!(request, Request::Delete { .. } | Request::Verify) {
                refuse(message, &record.name, Refusal::PartlyDeleted);
                continue;
            }
            match decide(record.state, None, request) {
                Decision::Refuse(refusal) => refuse(message, &record.name, refusal),
                Decision::Nothing => message.request.answer_no_op(),
                Decision::Run | Decision::Wait | Decision::Interrupt => {
                    if self.execute(message, &record).await {
                        return;
                    }
                }
            }
        }
    }

    /// Carries out a request. Returns true if the VM was deleted.
    async fn execute(&mut self, Message { request, context }: Message, record: &VmRecord) -> bool {
        let Self { services, id, inbox, queued, processes } = self;
        let (services, id) = (&**services, &*id);
        let work = Work::for_request(request.kind());
        let mut queue = Queue { record, work, inbox, queued, interrupt: &context.cancel };
        match request {
            ActorRequest::Change(change, answer) => {
                let is_deletion = matches!(change, Change::Delete { .. });
                let result = match change {
                    Change::Start(guest_settings) => {
                        queue.run(start::start(services, record, &context, processes, guest_settings)).await
                    }
                    Change::Stop(grace) => {
                        queue.run(stop::stop(services, record, &context, processes, grace)).await
                    }
                    Change::Restart(grace, guest_settings) => {
                        queue.run(restart(services, record, &context, processes, grace, guest_settings)).await
                    }
                    Change::Kill(signal) => {
                        queue.run(stop::kill(services, record, &context, processes, signal)).await
                    }
                    Change::Pause => queue.run(pause::pause(services, record)).await,
                    Change::Resume => queue.run(pause::resume(services, record)).await,
                    Change::Set(changes) => {
                        queue.run(change::change(services, record, &context, changes)).await
                    }
                    Change::SetEgress(egress) => {
                        queue.run(change::set_egress(services, record, &context, egress)).await
                    }
                    Change::Publish(request) => {
                        queue.run(publish::publish(services, record, &context, request)).await
                    }
                    Change::Unpublish(request) => publish::unpublish(services, record, &request),
                    Change::Delete { .. } => queue.run(stop::delete(services, id, processes)).await,
                };
                let is_deleted = is_deletion && result.is_ok();
                if is_deleted {
                    services.sessions.forget(id);
                }
                publish::sync(services, id, &context).await;
                send(answer, result);
                is_deleted
            }
            ActorRequest::Commit(options, answer) => {
                send(answer, queue.run(commit::commit(services, record, &context, options)).await);
                false
            }
            ActorRequest::Verify(answer) => {
                send(answer, queue.run(verify::verify(services, record, processes)).await);
                false
            }
        }
    }

    fn record(&self) -> Result<VmRecord, EngineError> {
        let record = self.services.store.vm(&self.id)?;
        record.ok_or_else(|| ApiError::new(ErrorKind::NotFound, format!("no VM {}", self.id)).into())
    }

    /// Records that a VM has lost its network, unless its processes have ended with the VMM.
    async fn handle_network_exit(&mut self, exit: ProcessExit) {
        self.processes.network.clear();
        // An exit status can be read only once.
        if let Ok(cause) = tokio::time::timeout(NETWORK_EXIT_GRACE, self.processes.first_exit()).await {
            return self.handle_exit(cause).await;
        }
        tracing::warn!(vm = %self.id, %exit, "the VM has lost its network");
        let why = format!("none: {exit}; restart the VM to connect it again");
        if let Err(error) = self.services.store.set_vm_network(&self.id, &why) {
            tracing::error!(vm = %self.id, %error, "cannot record that the VM has no network");
        }
    }

    /// Cleans up after a process of a running VM has exited.
    async fn handle_exit(&mut self, exit: ProcessExit) {
        tracing::warn!(vm = %self.id, %exit, "a process of the VM ended");
        if let Err(error) = stop::clean_up(&self.services, &self.id, &mut self.processes, exit).await {
            tracing::error!(vm = %self.id, %error, "cannot record the end of the VM");
        }
        publish::close(&self.services, &self.id);
    }
}

/// Restarts a VM as one operation. A VM that is down is only started.
async fn restart(
    services: &Services,
    record: &VmRecord,
    context: &Context,
    processes: &mut VmProcesses,
    grace: Duration,
    guest_settings: GuestSettings,
) -> Result<(), EngineError> {
    if processes.vmm.is_some() {
        preflight::before_restart(services, record).await?;
        stop::stop(services, record, context, processes, grace).await?;
        publish::close(services, &record.id);
        context.check()?;
    }
    start::start(services, record, context, processes, guest_settings).await
}

/// The requests that arrive during `work`.
struct Queue<'a> {
    record: &'a VmRecord,
    work: Work,
    inbox: &'a mut mpsc::Receiver<Message>,
    queued: &'a mut VecDeque<Message>,
    interrupt: &'a CancellationToken,
}

impl Queue<'_> {
    /// Awaits `future`. Meanwhile, new requests are queued, interrupt the work, or are refused.
    async fn run<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        loop {
            tokio::select! {
                result = &mut future => return result,
                Some(message) = self.inbox.recv() => self.handle_message(message),
            }
        }
    }

    fn handle_message(&mut self, message: Message) {
        match decide(self.record.state, Some(self.work), message.request.kind()) {
            Decision::Refuse(refusal) => refuse(message, &self.record.name, refusal),
            Decision::Nothing => message.request.answer_no_op(),
            Decision::Interrupt => {
                self.interrupt.cancel();
                self.queued.push_back(message);
            }
            Decision::Run | Decision::Wait if self.queued.len() < MAX_QUEUED => {
                self.queued.push_back(message)
            }
            Decision::Run | Decision::Wait => refuse(message, &self.record.name, Refusal::Busy(self.work)),
        }
    }
}

fn refuse(message: Message, name: &VmName, refusal: Refusal) {
    let error = refusal_error(message.request.kind(), name, refusal);
    message.request.fail(error.into());
}

fn refusal_error(request: Request, name: &VmName, refusal: Refusal) -> ApiError {
    let error = |kind, what: &str, remedy| {
        ApiError::new(kind, format!("VM {name} {what}")).about(SubjectKind::Vm, name).remedy(remedy)
    };
    match (refusal, request) {
        (Refusal::Busy(work), request) => {
            let is_deletion = matches!(request, Request::Delete { .. }) && work != Work::Delete;
            error(
                ErrorKind::Busy,
                match work {
                    Work::Start => "is being started",
                    Work::Stop => "is being stopped",
                    Work::Restart => "is being restarted",
                    Work::Short => "has too many requests waiting",
                    Work::Commit => "is being committed to an image",
                    Work::Delete => "is being deleted",
                },
                if is_deletion { Remedy::DeleteVmByForce } else { Remedy::Wait },
            )
        }
        (Refusal::NotRunning, _) => error(ErrorKind::NotRunning, "is not running", Remedy::StartVm),
        (Refusal::Running, Request::Delete { .. }) => {
            error(ErrorKind::Busy, "is running", Remedy::StopOrDeleteVm)
        }
        (Refusal::Running, Request::Commit) => {
            error(ErrorKind::Busy, "is not stopped; only a stopped VM can be committed", Remedy::StopVm)
        }
        (Refusal::Running, _) => error(
            ErrorKind::Busy,
            "is running; its hardware can only change while it is stopped",
            Remedy::StopVm,
        ),
        (Refusal::PartlyDeleted, _) => error(
            ErrorKind::Busy,
            "is partly deleted: its deletion failed, and only another deletion is possible",
            Remedy::DeleteVm,
        ),
        (Refusal::Paused, _) => error(ErrorKind::NotRunning, "is paused", Remedy::ResumeVm),
    }
}

fn send<T>(answer: Answer<T>, result: Result<T, EngineError>) {
    if answer.send(result).is_err() {
        tracing::debug!("the request was dropped before its answer");
    }
}
