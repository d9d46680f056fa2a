//! More names of an image, and other ones.

use std::{fs, sync::Arc};

use banger_api::{ImageName, NameImage, resolve_image};

use crate::{
    error::EngineError,
    host::{Host, unresolved},
    images::taken,
    operation::Context,
    staged::ROOTFS,
    store::{ImageRecord, StoreError},
};

impl Host {
    /// The image that `reference` names, if it is here.
    pub(crate) fn image_here(&self, reference: &str) -> Result<ImageRecord, EngineError> {
        let images = self.store.images()?;
        Ok(resolve_image(&images, reference).map_err(|error| unresolved("image", reference, error))?.clone())
    }

    /// Gives the image that `reference` names one more name: an image of its own, whose file is the same. Either can be
    /// deleted without the other.
    pub(crate) async fn tag_image(
        self: &Arc<Self>,
        reference: &str,
        tag: NameImage,
        context: &Context,
    ) -> Result<ImageRecord, EngineError> {
        let _one_at_a_time =
            context.unless_cancelled(async { Ok(self.publishing_images.lock().await) }).await?;
        let image = self.image_here(reference)?;
        if image.name == tag.name {
            return Ok(image);
        }
        let staged = self.stage_image(&tag.name, tag.replace_built)?;
        let rootfs = self.image_dir(&image.id).join(ROOTFS);
        // Of a file that is not banger's own there is a symbolic link, and so there are two.
        fs::hard_link(&rootfs, staged.rootfs()).map_err(EngineError::file("link", &rootfs))?;
        self.publish_staged(staged, ImageRecord { name: tag.name, ..image })
    }

    /// Calls the image that `reference` names `name` from now on.
    pub(crate) fn rename_image(&self, reference: &str, name: &ImageName) -> Result<ImageRecord, EngineError> {
        let image = self.image_here(reference)?;
        match self.store.rename_image(&image, name) {
            Err(StoreError::NameTaken(name)) => Err(taken("image", &name).into()),
            result => {
                result?;
                Ok(ImageRecord { name: name.clone(), ..image })
            }
        }
    }
}
