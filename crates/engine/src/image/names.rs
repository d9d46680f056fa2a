//! Tags and renames of images.

use std::{fs, sync::Arc};

use banger_api::{ApiError, Id, Image, ImageName, NameImage, OperationKind, SubjectKind};
use jiff::Timestamp;

use super::images::{Images, staged_dir};
use crate::{
    api_errors::{already_exists, in_use, used_by},
    error::EngineError,
    files::remove_dir,
    operation::{Context, Events},
    publish::Staged,
    store::{ImageRecord, StoreError},
};

/// A name for a new image, and the image that it replaces.
#[derive(Debug)]
pub(crate) struct Slot {
    replaces: Option<Id>,
}

impl Images {
    /// Adds a name to an image.
    pub fn tag(self: &Arc<Self>, reference: String, tag: NameImage) -> Events {
        let target = tag.name.to_string();
        self.operation(OperationKind::ImageTag, &target, move |images, context| async move {
            images.tag_as(&reference, tag, &context).await
        })
    }

    /// Checks early whether a new image can have `name`. Reserves nothing.
    ///
    /// # Errors
    /// Returns an error if the name is taken. With `replace_built`, a build's image that no VM uses does not count.
    pub(crate) fn slot_for(&self, name: &ImageName, replace_built: bool) -> Result<Slot, EngineError> {
        let existing = self.store.images()?.into_iter().find(|image| image.name == *name);
        match existing {
            None => Ok(Slot { replaces: None }),
            Some(image) if replace_built && image.build_key.is_some() => {
                let users = used_by(&self.store.vms()?, |vm| vm.image_id == image.id);
                if !users.is_empty() {
                    return Err(in_use(SubjectKind::Image, name.as_str(), users).into());
                }
                Ok(Slot { replaces: Some(image.id) })
            }
            Some(_) => Err(already_exists(SubjectKind::Image, name.as_str()).into()),
        }
    }

    /// Publishes `image`, whose synced files are in `staged`, and removes the image that it replaces.
    pub(crate) fn publish_in(
        &self,
        slot: Slot,
        staged: Staged,
        image: ImageRecord,
    ) -> Result<ImageRecord, EngineError> {
        let Some(old) = slot.replaces else { return self.publish_new(staged, image) };
        let image = ImageRecord { id: staged.id().clone(), ..image };
        match staged.publish(|| self.store.insert_image_replacing(&image, &old)) {
            Err(EngineError::Store(StoreError::NameTaken(name))) => {
                return Err(already_exists(SubjectKind::Image, &name).into());
            }
            result => result?,
        }
        if let Err(error) = remove_dir(self.dir(&old).path()) {
            tracing::warn!(%error, "a directory was not removed; the next start removes it");
        }
        Ok(image)
    }

    /// Adds a name to the image that `reference` names: a separate image that shares its file. Either can be deleted
    /// without the other.
    async fn tag_as(
        self: &Arc<Self>,
        reference: &str,
        tag: NameImage,
        context: &Context,
    ) -> Result<ImageRecord, EngineError> {
        let _one_at_a_time = context.unless_cancelled(async { Ok(self.publishing.lock().await) }).await?;
        let image = self.resolve(reference)?;
        if image.name == tag.name {
            return Ok(image);
        }
        let slot = self.slot_for(&tag.name, tag.replace_built)?;
        let staged = self.stage()?;
        let rootfs = self.dir(&image.id).rootfs();
        // For a registered file, this links the symbolic link, not the file.
        fs::hard_link(&rootfs, staged_dir(&staged).rootfs()).map_err(EngineError::file("link", &rootfs))?;
        self.publish_in(slot, staged, ImageRecord { name: tag.name, created_at: Timestamp::now(), ..image })
    }

    /// Renames the image that `reference` names to `name`.
    ///
    /// # Errors
    /// Returns an error if there is no such image, or the name is taken.
    pub fn rename(&self, reference: &str, name: &ImageName) -> Result<Image, ApiError> {
        let image = self.resolve(reference)?;
        match self.store.rename_image(&image, name) {
            Err(StoreError::NameTaken(name)) => Err(already_exists(SubjectKind::Image, &name)),
            result => {
                result?;
                let renamed = ImageRecord { name: name.clone(), ..image };
                Ok(self.describe(&renamed, &self.store.vms()?))
            }
        }
    }
}
