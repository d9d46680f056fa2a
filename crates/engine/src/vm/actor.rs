//! A VM's owner: the one task that starts, stops and deletes it, and that sees its processes die.

use std::{collections::VecDeque, future::Future, pin::Pin, sync::Arc};

use banger_api::{ApiError, ErrorKind, Id};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    policy::{Decision, Request, decide},
    process::Alive,
    start, stop,
};
use crate::{error::EngineError, host::Host, operation::Context, store::VmRecord};

/// Requests that may wait for the owner's attention; more are told that it is busy.
const WAITING: usize = 8;

/// What is asked, as policy sees it.
pub(crate) type Ask = Request;

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

type Work<'a> = Pin<Box<dyn Future<Output = Result<(), EngineError>> + Send + 'a>>;

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
            match decide(record.state, message.ask) {
                Decision::Run => {
                    if self.carry_out(message, &record).await {
                        return;
                    }
                }
                other => refuse(message, &record, other),
            }
        }
    }

    /// Does what is asked, while telling others who ask that it is busy, or letting them interrupt. True when the VM
    /// is gone.
    async fn carry_out(&mut self, message: Message, record: &VmRecord) -> bool {
        let Self { host, id, inbox, waiting, alive } = self;
        let Message { ask, context, answer: reply } = message;
        let interrupt = context.cancel.clone();
        let mut work: Work<'_> = match ask {
            Ask::Start => Box::pin(start::start(host, record, &context, alive)),
            Ask::Stop => Box::pin(stop::stop(host, record, &context, alive)),
            Ask::Delete { .. } => Box::pin(stop::delete(host, id, alive)),
        };
        let result = loop {
            tokio::select! {
                result = &mut work => break result,
                Some(message) = inbox.recv() => meanwhile(host, id, message, waiting, &interrupt),
            }
        };
        drop(work);
        let gone = matches!(ask, Ask::Delete { .. }) && result.is_ok();
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

/// A request that came while another is carried out.
fn meanwhile(
    host: &Host,
    id: &Id,
    message: Message,
    waiting: &mut VecDeque<Message>,
    interrupt: &CancellationToken,
) {
    match host.store.vm(id) {
        Ok(Some(record)) => match decide(record.state, message.ask) {
            Decision::Interrupt => {
                interrupt.cancel();
                waiting.push_back(message);
            }
            // The state is about to be another: decided then.
            Decision::Run if waiting.len() < WAITING => waiting.push_back(message),
            Decision::Run => refuse(message, &record, Decision::Busy("has too many requests waiting")),
            other => refuse(message, &record, other),
        },
        Ok(None) => waiting.push_back(message),
        Err(error) => answer(message.answer, Err(error.into())),
    }
}

fn refuse(message: Message, record: &VmRecord, decision: Decision) {
    let VmRecord { name, .. } = record;
    let result = match decision {
        Decision::Busy(what) => {
            let error = ApiError::new(ErrorKind::Busy, format!("VM {name} {what}"));
            Err(match message.ask {
                Ask::Delete { .. } => {
                    error.hint(format!("`banger vm delete --force {name}` cuts that short"))
                }
                Ask::Start | Ask::Stop => error.hint("wait for that to end, then try again"),
            }
            .into())
        }
        // Under way and interrupted, or there already.
        Decision::Nothing | Decision::Run | Decision::Interrupt => Ok(()),
    };
    answer(message.answer, result);
}

fn answer(reply: oneshot::Sender<Result<(), EngineError>>, result: Result<(), EngineError>) {
    if reply.send(result).is_err() {
        tracing::debug!("nobody waits for the answer");
    }
}
