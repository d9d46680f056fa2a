//! What can be asked about images that are made here: of VMs' disks, of the user's files, and of one another.

use std::sync::Arc;

use banger_api::{ApiError, CommitVm, Image, ImageName, NameImage, OperationKind, PruneCache, RegisterImage};
use tokio::sync::mpsc;

use super::{Engine, Events};
use crate::{error::EngineError, operation::OnHangUp, vm::Ask};

impl Engine {
    /// Gives an image one more name.
    pub fn tag_image(&self, reference: String, tag: NameImage) -> Events {
        let target = tag.name.to_string();
        self.image_operation(OperationKind::ImageTag, &target, move |host, context| async move {
            host.tag_image(&reference, tag, &context).await
        })
    }

    /// Gives an image another name.
    ///
    /// # Errors
    /// When there is none, or the name is taken.
    pub fn rename_image(&self, reference: &str, name: &ImageName) -> Result<Image, ApiError> {
        let image = self.0.rename_image(reference, name)?;
        Ok(self.0.show_image(&image, &self.0.store.vms()?))
    }

    /// Makes a file of the user's an image, where it is.
    pub fn register_image(&self, register: RegisterImage) -> Events {
        let target = register.name.to_string();
        self.image_operation(OperationKind::ImageRegister, &target, move |host, context| async move {
            host.register_image(register, &context).await
        })
    }

    /// Copies the file of such an image into banger's own store.
    pub fn promote_image(&self, reference: String) -> Events {
        let target = reference.clone();
        self.image_operation(OperationKind::ImagePromote, &target, move |host, context| async move {
            host.promote_image(&reference, &context).await
        })
    }

    /// Makes an image of what is on the disks of a VM that is down.
    ///
    /// # Errors
    /// When there is no such VM.
    pub fn commit_vm(&self, reference: &str, commit: CommitVm) -> Result<Events, ApiError> {
        let record = self.0.find_vm(reference)?;
        let engine = self.clone();
        let target = commit.name.to_string();
        Ok(self.image_operation(OperationKind::ImageCommit, &target, move |_, context| async move {
            let (tell, mut told) = mpsc::unbounded_channel();
            engine.ask(&record.id, Ask::Commit(commit, tell), &context).await?;
            told.recv().await.ok_or(EngineError::Cancelled)
        }))
    }

    /// Empties the caches.
    pub fn prune_cache(&self, prune: PruneCache) -> Events {
        let host = self.0.clone();
        let work = move |context| async move { Arc::clone(&host).prune_cache(prune, &context).await };
        self.0.operations.start(OperationKind::CachePrune, "cache", OnHangUp::Cancel, work, |_, _| async {})
    }
}
