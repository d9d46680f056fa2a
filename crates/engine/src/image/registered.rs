//! Images that are files of the user's: registered where they are, never written and never deleted; and promoted, which
//! makes a copy of banger's own.
//!
//! Such an image's folder has a symbolic link to the file. A promotion puts the copy in its place and only then says so
//! in the row: what the folder has is what counts.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use banger_api::{
    ApiError, ErrorKind, ImageConfig, ImageSource, OperationKind, RefError, RegisterImage, Remedy, Size,
    SubjectKind, resolve,
};
use jiff::Timestamp;

use super::images::{Images, staged_dir};
use crate::{
    admission,
    error::EngineError,
    files::{disk_usage, seal, sync},
    operation::{Context, Events},
    refusals::{no_such, unresolved},
    store::{ImageRecord, Outside},
};

impl Images {
    /// Makes a file of the user's an image, where it is.
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
            self.is_kernel(kernel)?;
        }
        self.refuse_taken(&name)?;
        let staged = self.stage()?;
        context.stage("look at the file system").await;
        let (outside, info) = {
            let path = path.clone();
            context
                .blocking(move |context| -> Result<_, EngineError> {
                    let before = look(&path)?;
                    let info = banger_image::inspect_rootfs(&path, context)?;
                    if look(&path)? != before {
                        return Err(changed(&path, "is being written to").into());
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
            size: Size::bytes(outside.size),
            entries: info.entries,
            os: info.os,
            init: info.init,
            kernel,
            source: ImageSource::Register,
            created_at: Timestamp::now(),
            reference: None,
            digest: None,
            config: ImageConfig::default(),
            outside: Some(outside),
            build_key: None,
        };
        self.publish_new(staged, image)
    }

    /// Refuses a kernel that is neither here nor in the catalog.
    fn is_kernel(&self, name: &str) -> Result<(), EngineError> {
        match resolve(&self.store.kernels()?, name) {
            Ok(_) => Ok(()),
            Err(RefError::NotFound) if self.catalogs.all()?.kernel(name).is_some() => Ok(()),
            Err(RefError::NotFound) => Err(no_such(SubjectKind::Kernel, name).into()),
            Err(error) => Err(unresolved(SubjectKind::Kernel, name, error).into()),
        }
    }

    async fn copy_registered(&self, reference: &str, context: &Context) -> Result<ImageRecord, EngineError> {
        let _one_at_a_time = context.unless_cancelled(async { Ok(self.publishing.lock().await) }).await?;
        let image = self.resolve(reference)?;
        let Some(outside) = &image.outside else { return Ok(image) };
        let dir = self.dir(&image.id);
        if is_link(&dir.rootfs()) {
            self.check_usable(&image)?;
            admission::space(&self.dirs.state, "the image", of_blocks(&outside.path))?;
            context.stage("copy the file system").await;
            let (from, before) = (outside.path.clone(), outside.clone());
            context
                .blocking(move |context| -> Result<(), EngineError> {
                    let unchanged = || Ok(look(&from).is_ok_and(|now| now == before));
                    banger_image::copy_rootfs(&from, &dir.rootfs(), unchanged, context)?;
                    seal(&dir.rootfs())?;
                    sync(dir.path())
                })
                .await?;
        }
        self.store.promote_image(&image.id)?;
        Ok(ImageRecord { outside: None, ..image })
    }

    /// Refuses an image whose file is gone, or not what it was when it was registered.
    pub(crate) fn check_usable(&self, image: &ImageRecord) -> Result<(), ApiError> {
        let Some(outside) = image.outside.as_ref().filter(|_| is_link(&self.dir(&image.id).rootfs())) else {
            return Ok(());
        };
        let Some(how) = problem_of(outside)? else { return Ok(()) };
        let message = format!("the file of image {} {how}: {}", image.name, outside.path.display());
        Err(ApiError::new(ErrorKind::Io, message)
            .about(SubjectKind::Image, &image.name)
            .remedy(Remedy::RestoreRegisteredFile))
    }

    /// The user's file, where the image is still one.
    pub(super) fn registered_file(&self, image: &ImageRecord) -> Option<PathBuf> {
        let is_outside = is_link(&self.dir(&image.id).rootfs());
        image.outside.as_ref().filter(|_| is_outside).map(|outside| outside.path.clone())
    }

    /// What an image's file takes on the disk, whoever's it is.
    pub(super) fn disk_usage(&self, image: &ImageRecord) -> Size {
        match self.registered_file(image) {
            Some(path) => of_blocks(&path),
            None => disk_usage(self.dir(&image.id).path()),
        }
    }

    /// Whether other images have the same file.
    pub(super) fn is_shared(&self, image: &ImageRecord) -> bool {
        fs::symlink_metadata(self.dir(&image.id).rootfs()).is_ok_and(|meta| meta.nlink() > 1)
    }
}

/// Says what has become of a registered file, if it is not as it was.
pub(crate) fn problem_of(file: &Outside) -> Result<Option<&'static str>, EngineError> {
    match look(&file.path) {
        Ok(now) if now == *file => Ok(None),
        Ok(_) => Ok(Some("has changed since it was registered")),
        Err(EngineError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(Some("is gone"))
        }
        Err(error) => Err(error),
    }
}

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_symlink())
}

fn of_blocks(path: &Path) -> Size {
    Size::bytes(fs::metadata(path).map_or(0, |meta| meta.blocks() * 512))
}

/// The file as it is now.
fn look(path: &Path) -> Result<Outside, EngineError> {
    if !path.is_absolute() {
        let message = format!("{} is not a whole path", path.display());
        return Err(ApiError::new(ErrorKind::Invalid, message).into());
    }
    // Only a regular file: opening anything else could wait for ever.
    let meta = fs::metadata(path).map_err(EngineError::file("look at", path))?;
    if !meta.is_file() {
        return Err(
            ApiError::new(ErrorKind::Invalid, format!("{} is not a regular file", path.display())).into()
        );
    }
    File::open(path).map_err(EngineError::file("open", path))?;
    if meta.len() % 512 != 0 {
        let message =
            format!("{} has {} bytes, which is no whole number of sectors", path.display(), meta.len());
        return Err(ApiError::new(ErrorKind::Invalid, message).into());
    }
    Ok(Outside {
        path: path.to_owned(),
        device: meta.dev(),
        inode: meta.ino(),
        size: meta.len(),
        mtime: (meta.mtime(), meta.mtime_nsec()),
    })
}

fn changed(path: &Path, how: &str) -> ApiError {
    ApiError::new(ErrorKind::Busy, format!("{} {how}", path.display())).remedy(Remedy::StopWriting)
}
