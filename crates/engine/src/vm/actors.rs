//! The actors of all VMs, and requests to them.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use banger_api::{ApiError, CommitVm, ErrorKind, Id};
use tokio::sync::{mpsc, oneshot};

use super::{
    actor::{Actor, ActorRequest, Answer, Change, Message},
    process::VmProcesses,
    publish,
    services::Services,
};
use crate::{error::EngineError, operation::Context, store::ImageRecord};

/// The actors of all VMs.
#[derive(Debug)]
pub(crate) struct Actors {
    services: Arc<Services>,
    senders: Mutex<HashMap<Id, mpsc::Sender<Message>>>,
}

impl Actors {
    pub(crate) fn new(services: Arc<Services>) -> Self {
        Self { services, senders: Mutex::default() }
    }

    /// Starts an actor for VM `id`, with the VM's live processes.
    pub(crate) fn add(self: &Arc<Self>, id: &Id, processes: VmProcesses) {
        let runs = processes.vmm.is_some();
        let (actor, sender) = Actor::new(self.services.clone(), id.clone(), processes);
        self.lock().insert(id.clone(), sender);
        if runs {
            // Before the daemon answers its first request.
            publish::open_adopted(&self.services, id);
        }
        let (actors, id) = (self.clone(), id.clone());
        tokio::spawn(async move {
            actor.run().await;
            actors.lock().remove(&id);
        });
    }

    /// Asks the VM's actor for a change, and waits for the result.
    pub(crate) async fn change(&self, id: &Id, change: Change, context: &Context) -> Result<(), EngineError> {
        tracing::info!(vm = %id, operation = %context.id(), ?change, "requested");
        self.request(id, context, |answer| ActorRequest::Change(change, answer)).await
    }

    /// Asks the VM's actor to create an image from the VM's disks.
    pub(super) async fn commit(
        &self,
        id: &Id,
        commit: CommitVm,
        context: &Context,
    ) -> Result<ImageRecord, EngineError> {
        self.request(id, context, |answer| ActorRequest::Commit(commit, answer)).await
    }

    /// Asks the VM's actor to compare the VM with the store. Returns the problems found.
    pub(crate) async fn verify(&self, id: &Id, context: &Context) -> Result<Vec<String>, EngineError> {
        self.request(id, context, ActorRequest::Verify).await
    }

    async fn request<T: fmt::Debug>(
        &self,
        id: &Id,
        context: &Context,
        request: impl FnOnce(Answer<T>) -> ActorRequest,
    ) -> Result<T, EngineError> {
        let actor = self.lock().get(id).cloned().ok_or_else(|| deleted_error(id))?;
        let (answer, answered) = oneshot::channel();
        let message = Message { request: request(answer), context: context.clone() };
        actor.send(message).await.map_err(|_| deleted_error(id))?;
        answered.await.map_err(|_| deleted_error(id))?
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Id, mpsc::Sender<Message>>> {
        self.senders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the error for a VM that was deleted while a request was pending.
pub(super) fn deleted_error(id: &Id) -> EngineError {
    ApiError::new(ErrorKind::NotFound, format!("VM {id} is gone")).into()
}
