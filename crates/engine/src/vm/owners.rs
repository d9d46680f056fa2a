//! The actors of all VMs, and requests to them.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use banger_api::{ApiError, CommitVm, ErrorKind, Id};
use tokio::sync::{mpsc, oneshot};

use super::{
    actor::{Actor, Answer, Ask, Change, Message},
    process::Alive,
    services::Services,
};
use crate::{error::EngineError, operation::Context, store::ImageRecord};

/// The actors of all VMs.
#[derive(Debug)]
pub(crate) struct Owners {
    services: Arc<Services>,
    senders: Mutex<HashMap<Id, mpsc::Sender<Message>>>,
}

impl Owners {
    pub(crate) fn new(services: Arc<Services>) -> Self {
        Self { services, senders: Mutex::default() }
    }

    /// Starts an actor for VM `id`, with the VM's live processes.
    pub(crate) fn add(self: &Arc<Self>, id: &Id, alive: Alive) {
        let (actor, sender) = Actor::new(self.services.clone(), id.clone(), alive);
        self.lock().insert(id.clone(), sender);
        let (owners, id) = (self.clone(), id.clone());
        tokio::spawn(async move {
            actor.run().await;
            owners.lock().remove(&id);
        });
    }

    /// Asks the VM's actor for a change, and waits for the result.
    pub(crate) async fn change(&self, id: &Id, change: Change, context: &Context) -> Result<(), EngineError> {
        tracing::info!(vm = %id, operation = %context.id(), ?change, "requested");
        self.ask(id, context, |answer| Ask::Change(change, answer)).await
    }

    /// Asks the VM's actor to create an image from the VM's disks.
    pub(super) async fn commit(
        &self,
        id: &Id,
        commit: CommitVm,
        context: &Context,
    ) -> Result<ImageRecord, EngineError> {
        self.ask(id, context, |answer| Ask::Commit(commit, answer)).await
    }

    /// Asks the VM's actor to compare the VM with the store. Returns the problems found.
    pub(crate) async fn look(&self, id: &Id, context: &Context) -> Result<Vec<String>, EngineError> {
        self.ask(id, context, Ask::Look).await
    }

    async fn ask<T: fmt::Debug>(
        &self,
        id: &Id,
        context: &Context,
        ask: impl FnOnce(Answer<T>) -> Ask,
    ) -> Result<T, EngineError> {
        let owner = self.lock().get(id).cloned().ok_or_else(|| gone(id))?;
        let (answer, answered) = oneshot::channel();
        let message = Message { ask: ask(answer), context: context.clone() };
        owner.send(message).await.map_err(|_| gone(id))?;
        answered.await.map_err(|_| gone(id))?
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Id, mpsc::Sender<Message>>> {
        self.senders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the error for a VM that was deleted while a request was pending.
pub(super) fn gone(id: &Id) -> EngineError {
    ApiError::new(ErrorKind::NotFound, format!("VM {id} is gone")).into()
}
