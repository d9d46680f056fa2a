//! The owners of all VMs, and how they are asked.

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

/// The owners of all VMs.
#[derive(Debug)]
pub(crate) struct Owners {
    services: Arc<Services>,
    senders: Mutex<HashMap<Id, mpsc::Sender<Message>>>,
}

impl Owners {
    pub(crate) fn new(services: Arc<Services>) -> Self {
        Self { services, senders: Mutex::default() }
    }

    /// Gives VM `id` an owner, with the processes that it has already.
    pub(crate) fn add(self: &Arc<Self>, id: &Id, alive: Alive) {
        let (actor, sender) = Actor::new(self.services.clone(), id.clone(), alive);
        self.lock().insert(id.clone(), sender);
        let (owners, id) = (self.clone(), id.clone());
        tokio::spawn(async move {
            actor.run().await;
            owners.lock().remove(&id);
        });
    }

    /// Has a VM changed by its owner, and waits for the result.
    pub(crate) async fn change(&self, id: &Id, change: Change, context: &Context) -> Result<(), EngineError> {
        tracing::info!(vm = %id, operation = %context.id(), ?change, "asked");
        self.ask(id, context, |answer| Ask::Change(change, answer)).await
    }

    /// Has an image made of a VM's disks by its owner.
    pub(super) async fn commit(
        &self,
        id: &Id,
        commit: CommitVm,
        context: &Context,
    ) -> Result<ImageRecord, EngineError> {
        self.ask(id, context, |answer| Ask::Commit(commit, answer)).await
    }

    /// Has a VM's owner look whether the VM is as the store says. Returns what was amiss.
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

/// A VM that has gone while something was asked of it.
pub(super) fn gone(id: &Id) -> EngineError {
    ApiError::new(ErrorKind::NotFound, format!("VM {id} is gone")).into()
}
