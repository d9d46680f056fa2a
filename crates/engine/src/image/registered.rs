//! Images that are the user's files: registered in place, never written and never deleted. Promoting one copies its
//! file into banger's store.
//!
//! A registered image's directory has a symbolic link to the file. A promotion replaces the link with the copy, and
//! only then updates the row: the directory is authoritative.

use std::sync::Arc;

use banger_api::{
    ApiError, ImageConfig, ImageSource, OperationKind, RefError, RegisterImage, Size, SubjectKind, resolve,
};
use jiff::Timestamp;

use super::{
    images::{Images, staged_dir},
    registered_file::{allocated_size, changed_error, inspect, is_link},
};
use crate::{
    admission,
    error::EngineError,
    files::{seal, sync},
    operation::{Context, Events},
    store::ImageRecord,
};

impl Images {
    /// Registers a user's file as an image, in place.
    pub fn register(self: &Arc<Self>, register: RegisterImage) -> Events {
        let target = register.name.to_string();
        self.operation(OperationKind::ImageRegister, &target, move |images, context| async move {
            images.register_file(register, &context).await
        })
    }

    /// Copies the file of a registered image into banger's own store.
    pub fn promote(self: &Arc<Self>, reference: String) -> Events {
        let target = reference.clone();
        self.operation(OperationKind::ImagePromote, &target, move |images, context| async move {
            images.copy_registered(&reference, &context).await
        })
    }

    async fn register_file(
        &self,
        register: RegisterImage,
        context: &Context,
    ) -> Result<ImageRecord, EngineError> {
        let RegisterImage { name, path, kernel } = register;
        if let Some(kernel) = &kernel {
            self.check_kernel(kernel)?;
        }
        self.check_name_free(&name)?;
        let staged = self.stage()?;
        context.stage("check the file system").await;
        let (file, info) = {
            let path = path.clone();
            context
                .blocking(move |context| -> Result<_, EngineError> {
                    let before = inspect(&path)?;
                    let info = banger_image::inspect_rootfs(&path, context)?;
                    if inspect(&path)? != before {
                        return Err(changed_error(&path, "is being written to").into());
                    }
                    Ok((before, info))
                })
                .await?
        };
        context.check()?;
        let link = staged_dir(&staged).rootfs();
        std::os::unix::fs::symlink(&path, &link).map_err(EngineError::file("link", &link))?;
        let image = ImageRecord {
            id: staged.id().clone(),
            name,
            size: Size::bytes(file.size),
            entries: info.entries,
            os: info.os,
            init: info.init,
            kernel,
            source: ImageSource::Register,
            created_at: Timestamp::now(),
            reference: None,
            digest: None,
            config: ImageConfig::default(),
            registered_file: Some(file),
            build_key: None,
        };
        self.publish_new(staged, image)
    }

    /// Refuses a kernel that is neither local nor in the catalog.
    fn check_kernel(&self, name: &str) -> Result<(), EngineError> {
        match resolve(&self.store.kernels()?, name) {
            Ok(_) => Ok(()),
            Err(RefError::NotFound) if self.catalogs.all()?.kernel(name).is_some() => Ok(()),
            Err(error) => Err(ApiError::unresolved(SubjectKind::Kernel, name, error).into()),
        }
    }

    async fn copy_registered(&self, reference: &str, context: &Context) -> Result<ImageRecord, EngineError> {
        let _one_at_a_time = context.unless_cancelled(async { Ok(self.publishing.lock().await) }).await?;
        let image = self.resolve(reference)?;
        let Some(file) = &image.registered_file else { return Ok(image) };
        let dir = self.dir(&image.id);
        if is_link(&dir.rootfs()) {
            self.check_usable(&image)?;
            admission::check_space(&self.dirs.state, "the image", allocated_size(&file.path))?;
            context.stage("copy the file system").await;
            let (from, before) = (file.path.clone(), file.clone());
            context
                .blocking(move |context| -> Result<(), EngineError> {
                    let unchanged = || Ok(inspect(&from).is_ok_and(|current| current == before));
                    banger_image::copy_rootfs(&from, &dir.rootfs(), unchanged, context)?;
                    seal(&dir.rootfs())?;
                    sync(dir.path())
                })
                .await?;
        }
        self.store.promote_image(&image.id)?;
        Ok(ImageRecord { registered_file: None, ..image })
    }
}
