//! The image service: finds, imports, lists and deletes images.

use std::{
    fs,
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use banger_api::{
    ApiError, CatalogEntry, Dirs, ErrorKind, Id, Image, ImageName, ImageSource, OperationKind, Reference,
    Remedy, Size, SubjectKind, exact_image, resolve_image,
};
use banger_image::{CatalogImage, ImageError, Progress, RootfsInfo, RootfsOptions, Source};
use jiff::Timestamp;
use tokio::sync::Mutex;

use super::{
    fetch_locks::FetchLocks,
    registered_file::{allocated_size, find_change, is_link},
};
use crate::{
    admission,
    api_errors::{already_exists, in_use, used_by},
    catalog::Catalogs,
    config::ConfigFiles,
    error::EngineError,
    files::{disk_usage, remove_dir, seal},
    layout::ImageDir,
    operation::{Context, Events, OnDisconnect, Operations},
    publish::Staged,
    store::{ImageRecord, Store, StoreError, VmRecord},
};

/// The source of a root file system's tar.
#[derive(Debug)]
pub enum Tar<R> {
    /// A regular file that the client opened.
    File(fs::File),
    /// A stream that can be read only once.
    Stream(R),
}

/// The image service.
#[derive(Debug)]
pub struct Images {
    pub(super) dirs: Arc<Dirs>,
    pub(super) store: Arc<Store>,
    pub(super) config: Arc<ConfigFiles>,
    pub(super) catalogs: Arc<Catalogs>,
    pub(super) operations: Operations,
    /// Held while an image is created, so that concurrent requests do not create it twice.
    pub(super) publishing: Mutex<()>,
    pub(super) fetch_locks: FetchLocks,
}

impl Images {
    pub(crate) fn new(
        dirs: Arc<Dirs>,
        store: Arc<Store>,
        config: Arc<ConfigFiles>,
        catalogs: Arc<Catalogs>,
        operations: Operations,
    ) -> Self {
        Self {
            dirs,
            store,
            config,
            catalogs,
            operations,
            publishing: Mutex::default(),
            fetch_locks: FetchLocks::default(),
        }
    }

    /// Returns all images, sorted by name.
    ///
    /// # Errors
    /// Returns an error if the store cannot be read.
    pub fn list(&self) -> Result<Vec<Image>, ApiError> {
        let vms = self.store.vms()?;
        Ok(self.store.images()?.iter().map(|image| self.describe(image, &vms)).collect())
    }

    /// Returns the image that `reference` names.
    ///
    /// # Errors
    /// Returns an error if no image or several match.
    pub fn show(&self, reference: &str) -> Result<Image, ApiError> {
        Ok(self.describe(&self.resolve(reference)?, &self.store.vms()?))
    }

    /// Returns the catalog's images.
    ///
    /// # Errors
    /// Returns an error if a catalog file is broken.
    pub fn available(&self) -> Result<Vec<CatalogEntry>, ApiError> {
        let images = self.store.images()?;
        let entry = |image: &CatalogImage| CatalogEntry {
            name: image.name.clone(),
            description: image.description.to_string(),
            distro: image.distro.to_string(),
            arch: image.arch.to_string(),
            kernel: image.kernel.clone(),
            size: image.size,
            sources: image.sources.iter().map(|source| source.kind().to_owned()).collect(),
            references: image.sources.iter().filter_map(Source::reference).map(Reference::name).collect(),
            local: exact_image(&images, image.name.as_str()).is_some(),
        };
        Ok(self.catalogs.all()?.images.iter().map(entry).collect())
    }

    /// Creates an image from a tar of a root file system.
    pub fn import<R: Read + Send + 'static>(self: &Arc<Self>, name: ImageName, tar: Tar<R>) -> Events {
        let target = name.to_string();
        self.operation(OperationKind::ImageImport, &target, move |images, context| async move {
            images.import_tar(name, tar, &context).await
        })
    }

    /// Deletes an image that no VM uses.
    ///
    /// # Errors
    /// Returns an error if there is no such image, or it is in use.
    pub fn delete(&self, reference: &str) -> Result<(), ApiError> {
        let image = self.resolve(reference)?;
        if !self.store.delete_image(&image.id)? {
            let users = used_by(&self.store.vms()?, |vm| vm.image_id == image.id);
            return Err(in_use(SubjectKind::Image, image.name.as_str(), users));
        }
        Ok(remove_dir(self.dir(&image.id).path())?)
    }

    /// Starts an operation that creates an image.
    pub(crate) fn operation<W>(
        self: &Arc<Self>,
        kind: OperationKind,
        target: &str,
        work: impl FnOnce(Arc<Self>, Context) -> W + Send + 'static,
    ) -> Events
    where
        W: Future<Output = Result<ImageRecord, EngineError>> + Send + 'static,
    {
        let images = self.clone();
        let work = |context| async move { Ok(images.describe(&work(images.clone(), context).await?, &[])) };
        self.operations.start(kind, target, OnDisconnect::Cancel, work)
    }

    /// Returns the local image that `reference` names.
    pub(super) fn resolve(&self, reference: &str) -> Result<ImageRecord, ApiError> {
        let images = self.store.images()?;
        Ok(resolve_image(&images, reference)
            .map_err(|error| ApiError::unresolved(SubjectKind::Image, reference, error))?
            .clone())
    }

    async fn import_tar<R: Read + Send + 'static>(
        self: &Arc<Self>,
        name: ImageName,
        tar: Tar<R>,
        context: &Context,
    ) -> Result<ImageRecord, EngineError> {
        self.check_name_free(&name)?;
        // The image is at least as large as the file, compressed or not. A stream's size is unknown.
        let size = match &tar {
            Tar::File(file) => file.metadata().map_or(0, |meta| meta.len()),
            Tar::Stream(_) => 0,
        };
        admission::check_space(&self.dirs.state, "the image", Size::bytes(size))?;
        let written = self
            .write_rootfs(context, move |dir, out, progress| {
                let options = RootfsOptions::default();
                match tar {
                    Tar::File(file) => banger_image::import_rootfs_file(file, dir, out, &options, progress),
                    Tar::Stream(stream) => banger_image::import_rootfs(stream, dir, out, &options, progress),
                }
            })
            .await?;
        let image = written.record(name, ImageSource::Tar, None);
        self.publish_new(written.staged, image)
    }

    /// Calls `write` to write a root file system into a staged directory, and syncs it.
    pub(super) async fn write_rootfs(
        &self,
        context: &Context,
        write: impl FnOnce(&Path, &Path, &dyn Progress) -> Result<RootfsInfo, ImageError> + Send + 'static,
    ) -> Result<WrittenRootfs, EngineError> {
        let staged = self.stage()?;
        let dir = staged_dir(&staged);
        let info = context
            .blocking(move |context| -> Result<RootfsInfo, EngineError> {
                let info = write(dir.path(), &dir.rootfs(), context)?;
                seal(&dir.rootfs())?;
                Ok(info)
            })
            .await?;
        context.check()?;
        Ok(WrittenRootfs { staged, info })
    }

    /// Creates the directory of a new image.
    pub(crate) fn stage(&self) -> Result<Staged, EngineError> {
        Staged::create(self.dirs.state.join("images"))
    }

    /// Publishes `image`, whose synced files are in `staged`, under an unused name.
    pub(crate) fn publish_new(&self, staged: Staged, image: ImageRecord) -> Result<ImageRecord, EngineError> {
        let image = ImageRecord { id: staged.id().clone(), ..image };
        match staged.publish(|| self.store.insert_image(&image)) {
            Err(EngineError::Store(StoreError::NameTaken(name))) => {
                Err(already_exists(SubjectKind::Image, &name).into())
            }
            result => result.map(|()| image),
        }
    }

    pub(super) fn check_name_free(&self, name: &ImageName) -> Result<(), ApiError> {
        let is_taken = self.store.images()?.iter().any(|image| image.name == *name);
        if is_taken { Err(already_exists(SubjectKind::Image, name.as_str())) } else { Ok(()) }
    }

    /// Refuses an image whose registered file is gone or has changed.
    pub(crate) fn check_usable(&self, image: &ImageRecord) -> Result<(), ApiError> {
        let Some(file) = image.registered_file.as_ref().filter(|_| is_link(&self.dir(&image.id).rootfs()))
        else {
            return Ok(());
        };
        let Some(change) = find_change(file)? else { return Ok(()) };
        let message = format!("the file of image {} {change}: {}", image.name, file.path.display());
        Err(ApiError::new(ErrorKind::Io, message)
            .about(SubjectKind::Image, &image.name)
            .remedy(Remedy::RestoreRegisteredFile))
    }

    /// Returns the user's file of a registered image that is not promoted.
    fn registered_file(&self, image: &ImageRecord) -> Option<PathBuf> {
        let is_registered = is_link(&self.dir(&image.id).rootfs());
        image.registered_file.as_ref().filter(|_| is_registered).map(|file| file.path.clone())
    }

    /// Returns the disk space of an image's file, also of a registered one.
    fn disk_usage(&self, image: &ImageRecord) -> Size {
        match self.registered_file(image) {
            Some(path) => allocated_size(&path),
            None => disk_usage(self.dir(&image.id).path()),
        }
    }

    /// Returns whether other images share the same file.
    fn is_shared(&self, image: &ImageRecord) -> bool {
        fs::symlink_metadata(self.dir(&image.id).rootfs()).is_ok_and(|meta| meta.nlink() > 1)
    }

    pub(crate) fn dir(&self, id: &Id) -> ImageDir {
        ImageDir::new(&self.dirs, id)
    }

    /// Returns an image as the API shows it.
    pub(super) fn describe(&self, image: &ImageRecord, vms: &[VmRecord]) -> Image {
        Image {
            id: image.id.clone(),
            name: image.name.clone(),
            size: image.size,
            disk_usage: self.disk_usage(image),
            entries: image.entries,
            os: image.os.clone(),
            init: image.init.clone(),
            kernel: image.kernel.clone(),
            source: image.source,
            outside: self.registered_file(image),
            problem: self.check_usable(image).err().map(|error| error.message),
            shared: self.is_shared(image),
            build_key: image.build_key,
            reference: image.reference.clone(),
            digest: image.digest,
            config: image.config.clone(),
            created_at: image.created_at,
            used_by: used_by(vms, |vm| vm.image_id == image.id),
        }
    }
}

/// Returns `staged` as an image directory.
pub(crate) fn staged_dir(staged: &Staged) -> ImageDir {
    ImageDir::from_path(staged.path().to_owned())
}

/// A root file system in a staged directory.
#[derive(Debug)]
pub(super) struct WrittenRootfs {
    pub(super) staged: Staged,
    info: RootfsInfo,
}

impl WrittenRootfs {
    /// Returns the row that publishes it.
    pub(super) fn record(&self, name: ImageName, source: ImageSource, kernel: Option<String>) -> ImageRecord {
        let info = self.info.clone();
        ImageRecord {
            id: self.staged.id().clone(),
            name,
            size: Size::bytes(info.size),
            entries: info.entries,
            os: info.os,
            init: info.init,
            kernel,
            source,
            created_at: Timestamp::now(),
            reference: None,
            digest: info.digest,
            config: info.config,
            registered_file: None,
            build_key: None,
        }
    }
}
