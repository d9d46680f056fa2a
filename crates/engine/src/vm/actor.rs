//! A VM's owner: the one task that changes it, and that sees its processes die.

use std::{collections::VecDeque, future::Future, pin::Pin, sync::Arc, time::Duration};

use banger_api::{ApiError, CommitVm, ErrorKind, Id, KillSignal, Personal, SetVm, VmName};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    change, commit, look, pause,
    policy::{Decision, Refusal, Request, Work, decide},
    process::Alive,
    start, stop,
};
use crate::{
    error::EngineError,
    host::Host,
    operation::Context,
    store::{ImageRecord, VmRecord},
};

/// Requests that may wait for the owner's attention; more are told that it is busy.
const WAITING: usize = 8;

/// What is asked of a VM, with what belongs to it.
#[derive(Debug, Clone)]
pub(crate) enum Ask {
    Start(Personal),
    /// Ends by force after so long.
    Stop(Duration),
    Restart(Duration, Personal),
    Kill(KillSignal),
    Pause,
    Resume,
    Set(SetVm),
    /// Tells what it has made.
    Commit(CommitVm, mpsc::UnboundedSender<ImageRecord>),
    /// Tells what is amiss, and mends it.
    Look(mpsc::UnboundedSender<String>),
    Delete {
        force: bool,
    },
}

impl Ask {
    fn request(&self) -> Request {
        match self {
            Self::Start(_) => Request::Start,
            Self::Stop(_) => Request::Stop,
            Self::Restart(..) => Request::Restart,
            Self::Kill(_) => Request::Kill,
            Self::Pause => Request::Pause,
            Self::Resume => Request::Resume,
            Self::Set(_) => Request::Set,
            Self::Commit(..) => Request::Commit,
            Self::Look(_) => Request::Look,
            Self::Delete { force } => Request::Delete { force: *force },
        }
    }

    fn work(&self) -> Work {
        match self {
            Self::Start(_) => Work::Start,
            Self::Stop(_) => Work::Stop,
            Self::Restart(..) => Work::Restart,
            Self::Kill(_) | Self::Pause | Self::Resume | Self::Set(_) | Self::Look(_) => Work::Moment,
            Self::Commit(..) => Work::Commit,
            Self::Delete { .. } => Work::Delete,
        }
    }
}

/// A request to a VM's owner.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) ask: Ask,
    pub(crate) context: Context,
    pub(crate) answer: oneshot::Sender<Result<(), EngineError>>,
}

/// The owner's own state.
#[derive(Debug)]
pub(crate) struct Actor {
    host: Arc<Host>,
    id: Id,
    inbox: mpsc::Receiver<Message>,
    waiting: VecDeque<Message>,
    alive: Alive,
}

type Done<'a> = Pin<Box<dyn Future<Output = Result<(), EngineError>> + Send + 'a>>;

impl Actor {
    /// Makes the owner of VM `id`, with what is alive for it already, and the way to reach it.
    pub(crate) fn spawn(host: Arc<Host>, id: Id, alive: Alive) -> mpsc::Sender<Message> {
        let (sender, inbox) = mpsc::channel(WAITING);
        tokio::spawn(Self { host, id, inbox, waiting: VecDeque::new(), alive }.run());
        sender
    }

    /// Lives until the VM is deleted or the engine has let go of it.
    async fn run(mut self) {
        loop {
            let message = match self.waiting.pop_front() {
                Some(message) => message,
                None => tokio::select! {
                    message = self.inbox.recv() => match message {
                        Some(message) => message,
                        None => return,
                    },
                    death = self.alive.first_death() => {
                        self.died(death).await;
                        continue;
                    }
                },
            };
            let record = match self.record() {
                Ok(record) => record,
                Err(error) => {
                    answer(message.answer, Err(error));
                    continue;
                }
            };
            match decide(record.state, None, message.ask.request()) {
                Decision::Refuse(refusal) => refuse(message, &record.name, refusal),
                Decision::Nothing => answer(message.answer, Ok(())),
                Decision::Run | Decision::Wait | Decision::Interrupt => {
                    if self.carry_out(message, &record).await {
                        return;
                    }
                }
            }
        }
    }

    /// Does what is asked, while others who ask wait, interrupt, or are told that it is busy. True when the VM is gone.
    async fn carry_out(&mut self, message: Message, record: &VmRecord) -> bool {
        let Self { host, id, inbox, waiting, alive } = self;
        let Message { ask, context, answer: reply } = message;
        let work = ask.work();
        let mut done: Done<'_> = match ask {
            Ask::Start(personal) => Box::pin(start::start(host, record, &context, alive, personal)),
            Ask::Stop(grace) => Box::pin(stop::stop(host, record, &context, alive, grace)),
            Ask::Restart(grace, personal) => {
                Box::pin(restart(host, record, &context, alive, grace, personal))
            }
            Ask::Kill(signal) => Box::pin(stop::kill(host, record, &context, alive, signal)),
            Ask::Pause => Box::pin(pause::pause(host, record)),
            Ask::Resume => Box::pin(pause::resume(host, record)),
            Ask::Set(wanted) => Box::pin(change::change(host, record, &context, wanted)),
            Ask::Commit(wanted, tell) => Box::pin(commit::commit(host, record, &context, wanted, tell)),
            Ask::Look(tell) => Box::pin(look::look(host, record, alive, tell)),
            Ask::Delete { .. } => Box::pin(stop::delete(host, id, alive)),
        };
        let result = loop {
            tokio::select! {
                result = &mut done => break result,
                Some(message) = inbox.recv() => meanwhile(record, work, message, waiting, &context.cancel),
            }
        };
        drop(done);
        let gone = work == Work::Delete && result.is_ok();
        if gone {
            host.forget_vm(id);
        }
        answer(reply, result);
        gone
    }

    fn record(&self) -> Result<VmRecord, EngineError> {
        let record = self.host.store.vm(&self.id)?;
        record.ok_or_else(|| ApiError::new(ErrorKind::NotFound, format!("no VM {}", self.id)).into())
    }

    /// A process of a VM that should run has ended.
    async fn died(&mut self, (role, how): (String, Option<String>)) {
        tracing::warn!(vm = %self.id, role, how, "a process of the VM ended");
        if let Err(error) = stop::clean_up(&self.host, &self.id, &mut self.alive, &role, how).await {
            tracing::error!(vm = %self.id, %error, "cannot record the end of the VM");
        }
        self.host.ended.notify_waiters();
    }
}

/// Down and up again, as one thing; one that is down only comes up.
async fn restart(
    host: &Host,
    record: &VmRecord,
    context: &Context,
    alive: &mut Alive,
    grace: Duration,
    personal: Personal,
) -> Result<(), EngineError> {
    if !alive.needed.is_empty() {
        stop::stop(host, record, context, alive, grace).await?;
        context.check()?;
    }
    start::start(host, record, context, alive, personal).await
}

/// A request that came while `work` is done.
fn meanwhile(
    record: &VmRecord,
    work: Work,
    message: Message,
    waiting: &mut VecDeque<Message>,
    interrupt: &CancellationToken,
) {
    match decide(record.state, Some(work), message.ask.request()) {
        Decision::Refuse(refusal) => refuse(message, &record.name, refusal),
        Decision::Nothing => answer(message.answer, Ok(())),
        Decision::Interrupt => {
            interrupt.cancel();
            waiting.push_back(message);
        }
        Decision::Run | Decision::Wait if waiting.len() < WAITING => waiting.push_back(message),
        Decision::Run | Decision::Wait => refuse(message, &record.name, Refusal::Busy(work)),
    }
}

fn refuse(message: Message, name: &VmName, refusal: Refusal) {
    answer(message.answer, Err(refused(&message.ask, name, refusal).into()));
}

fn refused(ask: &Ask, name: &VmName, refusal: Refusal) -> ApiError {
    let error = |kind, what: &str| ApiError::new(kind, format!("VM {name} {what}"));
    match (refusal, ask) {
        (Refusal::Busy(work), ask) => {
            let busy = error(
                ErrorKind::Busy,
                match work {
                    Work::Start => "is being started",
                    Work::Stop => "is being stopped",
                    Work::Restart => "is being restarted",
                    Work::Moment => "has too many requests waiting",
                    Work::Commit => "is being made an image of",
                    Work::Delete => "is being deleted",
                },
            );
            match ask {
                Ask::Delete { .. } if work != Work::Delete => {
                    busy.hint(format!("`banger vm delete --force {name}` cuts that short"))
                }
                _ => {
                    busy.hint("wait for that to end, then try again; `banger operations` tells how far it is")
                }
            }
        }
        (Refusal::NotRunning, _) => error(ErrorKind::NotRunning, "does not run")
            .hint(format!("start it with: banger vm start {name}")),
        (Refusal::Running, Ask::Delete { .. }) => error(ErrorKind::Busy, "is running").hint(format!(
            "`banger vm stop {name}` stops it; `banger vm delete --force {name}` deletes it as it is"
        )),
        (Refusal::Running, Ask::Commit(..)) => {
            error(ErrorKind::Busy, "is not stopped, and an image is made only of one that is")
                .hint(format!("stop it first with: banger vm stop {name}"))
        }
        (Refusal::Running, _) => {
            error(ErrorKind::Busy, "is running, and its hardware changes only while it is stopped")
                .hint(format!("stop it first with: banger vm stop {name}"))
        }
        (Refusal::Paused, _) => {
            error(ErrorKind::NotRunning, "is paused").hint(format!("go on with: banger vm resume {name}"))
        }
    }
}

fn answer(reply: oneshot::Sender<Result<(), EngineError>>, result: Result<(), EngineError>) {
    if reply.send(result).is_err() {
        tracing::debug!("nobody waits for the answer");
    }
}
