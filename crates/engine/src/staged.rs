//! An image on its way into the store: its folder first, then its files on the disk, last its row. One that breaks off
//! before is removed, at the latest by the next start's sweep.

use std::{
    fs,
    path::{Path, PathBuf},
};

use banger_api::{Id, ImageName};
use jiff::Timestamp;

use crate::{
    error::EngineError,
    host::Host,
    images::{Unfinished, durable, remove, taken},
    random_id,
    store::{ImageRecord, StoreError},
};

/// The file in an image's folder.
pub(crate) const ROOTFS: &str = "rootfs.ext4";

/// A folder that becomes an image's.
#[derive(Debug)]
pub(crate) struct Staged {
    id: Id,
    folder: PathBuf,
    unfinished: Unfinished,
    replaces: Option<Id>,
}

impl Host {
    /// Makes the folder of an image that will be called `name`.
    ///
    /// # Errors
    /// When the name is taken; but with `replace_built` not by an image that a build made and that no VM uses.
    pub(crate) fn stage_image(&self, name: &ImageName, replace_built: bool) -> Result<Staged, EngineError> {
        let taken_by = self.store.images()?.into_iter().find(|image| image.name == *name);
        let replaces = match taken_by {
            None => None,
            Some(image) if replace_built && image.build_key.is_some() => {
                let users = crate::images::used_by(&self.store.vms()?, |vm| vm.image_id == image.id);
                if !users.is_empty() {
                    return Err(crate::images::in_use("image", name.as_str(), &users).into());
                }
                Some(image.id)
            }
            Some(_) => return Err(taken("image", name.as_str()).into()),
        };
        let id = random_id();
        let folder = self.image_dir(&id);
        crate::dirs::private(&folder)?;
        Ok(Staged { id, unfinished: Unfinished(Some(folder.clone())), folder, replaces })
    }

    /// Publishes what is staged, whose files are in place, with what else `like` says.
    pub(crate) fn publish_staged(
        &self,
        staged: Staged,
        like: ImageRecord,
    ) -> Result<ImageRecord, EngineError> {
        durable(&staged.folder)?;
        if let Some(all) = staged.folder.parent() {
            durable(all)?;
        }
        let image = ImageRecord { id: staged.id, created_at: Timestamp::now(), ..like };
        match self.store.insert_image_for(&image, staged.replaces.as_ref()) {
            Err(StoreError::NameTaken(name)) => return Err(taken("image", &name).into()),
            result => result?,
        }
        staged.unfinished.keep();
        if let Some(old) = staged.replaces
            && let Err(error) = remove(&self.image_dir(&old))
        {
            tracing::warn!(%error, "left for the next start to sweep");
        }
        Ok(image)
    }
}

impl Staged {
    pub(crate) fn rootfs(&self) -> PathBuf {
        self.folder.join(ROOTFS)
    }
}

/// Puts a root file system on the disk, never to be written again.
pub(crate) fn seal(rootfs: &Path) -> Result<(), EngineError> {
    fs::set_permissions(rootfs, std::os::unix::fs::PermissionsExt::from_mode(0o400))
        .map_err(EngineError::file("close", rootfs))?;
    durable(rootfs)
}
