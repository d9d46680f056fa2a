//! Images: imported, pulled, listed, deleted. An image is published by its row; a folder without one is swept.

use std::{fs, io::Read, os::unix::fs::MetadataExt, path::Path, sync::Arc};

use banger_api::{
    ApiError, Credentials, ErrorKind, Id, Image, ImageName, RefError, Size, exact_image, resolve_image,
};
use banger_image::{CatalogImage, Progress, Recipe, RootfsInfo, RootfsOptions};
use jiff::Timestamp;

use crate::{
    admission,
    error::EngineError,
    host::{Host, unresolved, where_they_are},
    operation::Context,
    pull::PullOptions,
    random_id,
    store::{ImageRecord, VmRecord},
};

/// Where a root file system's tar comes from.
#[derive(Debug)]
pub enum Tar<R> {
    /// A regular file, which its owner has handed over to be read.
    File(fs::File),
    /// Bytes that come once.
    Stream(R),
}

impl Host {
    /// The image that `reference` names: one that is here, by all of its name or a beginning, else one of the catalog or of a
    /// registry, which is fetched first.
    pub(crate) async fn find_image(
        self: &Arc<Self>,
        reference: &str,
        credentials: Vec<Credentials>,
        context: &Context,
    ) -> Result<ImageRecord, EngineError> {
        let images = self.store.images()?;
        if let Some(image) = exact_image(&images, reference) {
            return Ok(image.clone());
        }
        // Before the beginnings of other images' names: it is all of this one's. A broken catalog hides no image that is here.
        if !self.catalog().is_ok_and(|catalog| catalog.image(reference).is_some()) {
            match resolve_image(&images, reference) {
                Ok(image) => return Ok(image.clone()),
                Err(RefError::NotFound) => {}
                Err(error) => return Err(unresolved("image", reference, error).into()),
            }
        }
        let name = reference.parse::<ImageName>().map_err(|error| {
            ApiError::new(ErrorKind::Invalid, format!("{reference:?} cannot be an image: {error}"))
        })?;
        context.note(format!("image {reference} is not here yet: it is fetched now, once")).await;
        let options = PullOptions { credentials, ..PullOptions::default() };
        self.pull_image(name, options, context).await.map_err(|error| {
            let error = ApiError::from(error);
            let elsewhere =
                matches!(error.kind, ErrorKind::NotFound | ErrorKind::NotPermitted | ErrorKind::Unreachable);
            // A slip in the name of an image that is here ends at a registry too.
            if elsewhere { error.hint(where_they_are("image")).into() } else { error.into() }
        })
    }

    /// Gets the image `name` of the catalog, else of a registry.
    pub(crate) async fn pull_image(
        self: &Arc<Self>,
        name: ImageName,
        options: PullOptions,
        context: &Context,
    ) -> Result<ImageRecord, EngineError> {
        let catalog = self.catalog_with(|catalog| catalog.image(name.as_str()).is_some(), context).await?;
        if let Some(entry) = catalog.image(name.as_str()) {
            return self.pull_from_catalog(entry, options, context).await;
        }
        let reference =
            name.reference().map_err(|error| ApiError::new(ErrorKind::Invalid, error.to_string()))?;
        self.pull_reference(reference, options, context).await
    }

    /// Makes the catalog's image `entry` of packages. Two who ask at once share one fetch.
    pub(crate) async fn make_of_packages(
        self: &Arc<Self>,
        entry: &CatalogImage,
        recipe: Recipe,
        context: &Context,
    ) -> Result<ImageRecord, EngineError> {
        let _one_at_a_time =
            context.unless_cancelled(async { Ok(self.publishing_images.lock().await) }).await?;
        if let Some(image) = self.store.images()?.into_iter().find(|image| image.name == entry.name) {
            return Ok(image);
        }
        admission::space(&self.dirs.state, "the image", entry.size)?;
        let kernel = entry.kernel.as_ref().map(ToString::to_string);
        self.publish_image(entry.name.clone(), "catalog", kernel, context, move |folder, out, progress| {
            banger_image::fetch_image(&recipe, folder, out, progress)
        })
        .await
    }

    /// Makes image `name` of a tar.
    pub(crate) async fn import_image<R: Read + Send + 'static>(
        self: &Arc<Self>,
        name: ImageName,
        tar: Tar<R>,
        context: &Context,
    ) -> Result<ImageRecord, EngineError> {
        if self.store.images()?.iter().any(|image| image.name == name) {
            return Err(taken("image", name.as_str()).into());
        }
        // Packed or not, the image is no smaller than what is read; of a stream nobody knows.
        let size = match &tar {
            Tar::File(file) => file.metadata().map_or(0, |meta| meta.len()),
            Tar::Stream(_) => 0,
        };
        admission::space(&self.dirs.state, "the image", Size::bytes(size))?;
        self.publish_image(name, "tar", None, context, move |folder, out, progress| {
            let options = RootfsOptions::default();
            match tar {
                Tar::File(file) => banger_image::import_rootfs_file(file, folder, out, &options, progress),
                Tar::Stream(stream) => banger_image::import_rootfs(stream, folder, out, &options, progress),
            }
        })
        .await
    }

    async fn publish_image(
        self: &Arc<Self>,
        name: ImageName,
        source: &str,
        kernel: Option<String>,
        context: &Context,
        make: impl FnOnce(&Path, &Path, &dyn Progress) -> Result<RootfsInfo, banger_image::ImageError>
        + Send
        + 'static,
    ) -> Result<ImageRecord, EngineError> {
        let written = self.write_image(context, make).await?;
        let image = written.record(name, source, kernel);
        self.store.insert_image(&image)?;
        written.keep();
        Ok(image)
    }

    /// Has `make` write an image's file system, and puts it on the disk; no row speaks of it yet.
    pub(crate) async fn write_image(
        self: &Arc<Self>,
        context: &Context,
        make: impl FnOnce(&Path, &Path, &dyn Progress) -> Result<RootfsInfo, banger_image::ImageError>
        + Send
        + 'static,
    ) -> Result<Written, EngineError> {
        let id = random_id();
        let folder = self.image_dir(&id);
        crate::dirs::private(&folder)?;
        let unfinished = Unfinished(Some(folder.clone()));
        let info = context
            .blocking(move |context| -> Result<RootfsInfo, EngineError> {
                let rootfs = folder.join("rootfs.ext4");
                let info = make(&folder, &rootfs, context)?;
                fs::set_permissions(&rootfs, std::os::unix::fs::PermissionsExt::from_mode(0o400))
                    .map_err(EngineError::file("close", &rootfs))?;
                durable(&rootfs)?;
                durable(&folder)?;
                Ok(info)
            })
            .await?;
        context.check()?;
        Ok(Written { id, info, unfinished })
    }

    /// Forgets an image that no VM uses.
    pub(crate) fn delete_image(&self, reference: &str) -> Result<(), EngineError> {
        let images = self.store.images()?;
        let image =
            resolve_image(&images, reference).map_err(|error| unresolved("image", reference, error))?;
        if !self.store.delete_image(&image.id)? {
            let users = used_by(&self.store.vms()?, |vm| vm.image_id == image.id);
            return Err(in_use("image", image.name.as_str(), &users).into());
        }
        remove(&self.image_dir(&image.id))
    }

    /// An image as the API tells it.
    pub(crate) fn show_image(&self, image: &ImageRecord, vms: &[VmRecord]) -> Image {
        Image {
            id: image.id.clone(),
            name: image.name.clone(),
            size: image.size,
            disk_usage: self.disk_usage_of(image),
            entries: image.entries,
            os: image.os.clone(),
            init: image.init.clone(),
            kernel: image.kernel.clone(),
            source: image.source.clone(),
            outside: self.outside_of(image),
            problem: self.usable(image).err().map(|error| error.message),
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

/// An image's file system that is on the disk, and goes unless a row speaks of it.
pub(crate) struct Written {
    id: Id,
    info: RootfsInfo,
    unfinished: Unfinished,
}

impl Written {
    /// The row that would publish it.
    pub(crate) fn record(&self, name: ImageName, source: &str, kernel: Option<String>) -> ImageRecord {
        let info = self.info.clone();
        ImageRecord {
            id: self.id.clone(),
            name,
            size: Size::bytes(info.size),
            entries: info.entries,
            os: info.os,
            init: info.init,
            kernel,
            source: source.to_owned(),
            created_at: Timestamp::now(),
            reference: None,
            digest: info.digest,
            config: info.config,
            outside: None,
            build_key: None,
        }
    }

    pub(crate) fn keep(self) {
        self.unfinished.keep();
    }
}

/// A folder that goes unless it is kept.
#[derive(Debug)]
pub(crate) struct Unfinished(pub(crate) Option<std::path::PathBuf>);

impl Unfinished {
    pub(crate) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(folder) = &self.0
            && let Err(error) = remove(folder)
        {
            tracing::warn!(%error, "left for the next start to sweep");
        }
    }
}

pub(crate) fn remove(folder: &Path) -> Result<(), EngineError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(EngineError::file("remove", folder)(error))
        }
        _ => Ok(()),
    }
}

/// Puts a file or folder on the disk before its row speaks of it.
pub(crate) fn durable(path: &Path) -> Result<(), EngineError> {
    fs::File::open(path).and_then(|file| file.sync_all()).map_err(EngineError::file("sync", path))
}

/// What a folder takes on the disk.
pub(crate) fn disk_usage(folder: &Path) -> Size {
    fn blocks(path: &Path) -> u64 {
        let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
        let inside = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| blocks(&entry.path()));
        meta.blocks() + if meta.is_dir() { inside.sum() } else { 0 }
    }
    Size::bytes(blocks(folder) * 512)
}

pub(crate) fn used_by(vms: &[VmRecord], uses: impl Fn(&VmRecord) -> bool) -> Vec<String> {
    vms.iter().filter(|vm| uses(vm)).map(|vm| vm.name.to_string()).collect()
}

pub(crate) fn taken(what: &str, name: &str) -> ApiError {
    ApiError::new(ErrorKind::AlreadyExists, format!("{what} {name} exists already"))
        .hint(format!("choose another name, or delete it with: banger {what} delete {name}"))
}

pub(crate) fn in_use(what: &str, name: &str, users: &[String]) -> ApiError {
    ApiError::new(ErrorKind::Busy, format!("{what} {name} is used by {}", users.join(", ")))
        .hint("delete these VMs first")
}

/// An image error as the API tells it.
pub(crate) fn image_error(error: &banger_image::ImageError, message: String) -> ApiError {
    use banger_image::{FailureKind, ImageError, KernelError, ModuleError};
    let kind = match error.kind() {
        FailureKind::Invalid => ErrorKind::Invalid,
        FailureKind::NoSpace => ErrorKind::NoSpace,
        FailureKind::MissingProgram => ErrorKind::MissingProgram,
        FailureKind::Cancelled => ErrorKind::Cancelled,
        FailureKind::Timeout => ErrorKind::Timeout,
        FailureKind::NotFound => ErrorKind::NotFound,
        FailureKind::NotPermitted => ErrorKind::NotPermitted,
        FailureKind::Unreachable => ErrorKind::Unreachable,
        _ => ErrorKind::Io,
    };
    let told = ApiError::new(kind, message);
    match error {
        ImageError::NoKernel
        | ImageError::Kernel(KernelError::Missing { .. })
        | ImageError::Modules(ModuleError::Dependency { .. }) => told.hint(
            "a kernel that comes in several packages is imported with all of them at once (kernel-core and \
             kernel-modules-core, linux-image and linux-modules); \
             `banger kernel list --available` has others",
        ),
        ImageError::Unsigned { .. } => told.hint(
            "whoever makes it signs each version with `minisign -S -m catalog.toml`; if the key is another by now, \
             correct [[catalog]] in config.toml",
        ),
        _ => told,
    }
}
