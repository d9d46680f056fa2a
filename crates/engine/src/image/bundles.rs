//! Bundles: images that are copied between hosts, each as one file.

use std::{
    fs::{self, File},
    io,
    path::Path,
    sync::Arc,
};

use banger_api::{
    ApiError, Bundle, Digest, ErrorKind, ImageName, ImageSource, Name, OperationKind, Remedy, Size,
    SubjectKind,
};
use banger_image::{
    BundleImage, CatalogImage, DownloadRequest, Location, download, open_bundle, write_bundle,
};
use sha2::{Digest as _, Sha256};

use super::images::Images;
use crate::{
    admission,
    api_errors::already_exists,
    error::EngineError,
    operation::{Context, Events, OnDisconnect},
    store::ImageRecord,
};

/// Maximum size of a downloaded bundle, in bytes.
const BUNDLE_MAX: u64 = 64 << 30;

/// Options that a request sets for a bundle before it is read.
#[derive(Debug, Default)]
pub(super) struct BundleOptions {
    /// The name of the image. Default: the bundle's name for it.
    pub(super) name: Option<ImageName>,
    /// Digest of the whole bundle.
    pub(super) sha256: Option<Digest>,
    /// The kernel for the image. Default: the bundle's.
    pub(super) kernel: Option<Name>,
}

impl Images {
    /// Imports an image from a bundle, under the bundle's name or `name`. Verifies the bundle's digest, if `sha256`
    /// is set.
    pub fn import_bundle(
        self: &Arc<Self>,
        file: File,
        name: Option<ImageName>,
        sha256: Option<Digest>,
    ) -> Events {
        let target = name.as_ref().map_or_else(|| "a bundle".to_owned(), ToString::to_string);
        self.operation(OperationKind::ImageImport, &target, move |images, context| async move {
            let options = BundleOptions { name, sha256, kernel: None };
            images.unpack_bundle(file, options, ImageSource::Bundle, &context).await
        })
    }

    /// Downloads the bundle at `url` and imports it, as [`import_bundle`](Self::import_bundle) does a file.
    pub fn download_bundle(
        self: &Arc<Self>,
        url: String,
        name: Option<ImageName>,
        sha256: Option<Digest>,
    ) -> Events {
        let target = name.as_ref().map_or_else(|| "a bundle".to_owned(), ToString::to_string);
        self.operation(OperationKind::ImagePull, &target, move |images, context| async move {
            let options = BundleOptions { name, sha256, kernel: None };
            if let Some(name) = &options.name {
                images.check_bundle_name_free(name)?;
            }
            let file = images.download_to_file(url, options.sha256, &context).await?;
            images.unpack_bundle(file, options, ImageSource::Bundle, &context).await
        })
    }

    /// Writes the image that `reference` names to the file `out`, as a bundle.
    pub fn bundle(self: &Arc<Self>, reference: String, out: File) -> Events {
        let (images, target) = (self.clone(), reference.clone());
        let work = |context| async move { images.write_bundle(&reference, out, &context).await };
        self.operations.start(OperationKind::ImageBundle, &target, OnDisconnect::Cancel, work)
    }

    /// Writes the image that `reference` names to the file `out`, which the client opened.
    async fn write_bundle(
        &self,
        reference: &str,
        out: fs::File,
        context: &Context,
    ) -> Result<Bundle, EngineError> {
        let image = self.resolve(reference)?;
        self.check_usable(&image)?;
        let rootfs = self.dir(&image.id).rootfs();
        let name = image.name.clone();
        let description = BundleImage {
            name: image.name,
            os: image.os,
            init: image.init,
            kernel: image.kernel.and_then(|kernel| kernel.parse().ok()),
            config: image.config,
            entries: image.entries,
        };
        let (sha256, size) = context
            .blocking(move |context| -> Result<_, EngineError> {
                let mut out = Hashed { out, hash: Sha256::new(), size: 0 };
                write_bundle(description, &rootfs, &mut out, Path::new("the bundle"), context)?;
                Ok((Digest::sha256(out.hash.finalize().into()), Size::bytes(out.size)))
            })
            .await?;
        Ok(Bundle { name, sha256, size })
    }

    /// Creates an image from the bundle in `file`.
    async fn unpack_bundle(
        self: &Arc<Self>,
        file: fs::File,
        options: BundleOptions,
        source: ImageSource,
        context: &Context,
    ) -> Result<ImageRecord, EngineError> {
        let BundleOptions { name, sha256, kernel } = options;
        let manifest_file = file.try_clone().map_err(EngineError::file("open", "the bundle"))?;
        // Reads the manifest first, so that a taken name or a full disk is refused before unpacking.
        let manifest = context
            .blocking(move |context| -> Result<_, EngineError> {
                Ok(open_bundle(manifest_file, context)?.manifest().clone())
            })
            .await?;
        let name = name.unwrap_or(manifest.name);
        self.check_bundle_name_free(&name)?;
        admission::check_space(&self.dirs.state, "the image", Size::bytes(0))?;
        let written = self
            .write_rootfs(context, move |_, out, progress| open_bundle(file, progress)?.write(sha256, out))
            .await?;
        let kernel = kernel.or(manifest.kernel).map(|kernel| kernel.to_string());
        let image = written.record(name, source, kernel);
        self.publish_new(written.staged, image)
    }

    /// Fetches the catalog's image `entry` from a bundle. Concurrent requests share one fetch.
    pub(super) async fn pull_bundle(
        self: &Arc<Self>,
        entry: &CatalogImage,
        place: &Location,
        sha256: Digest,
        context: &Context,
    ) -> Result<ImageRecord, EngineError> {
        let _lock = context.unless_cancelled(async { Ok(self.fetch_locks.lock(&entry.name).await) }).await?;
        if let Some(image) = self.store.images()?.into_iter().find(|image| image.name == entry.name) {
            return Ok(image);
        }
        let (name, kernel) = (Some(entry.name.clone()), entry.kernel.clone());
        let options = BundleOptions { name, sha256: Some(sha256), kernel };
        let file = match place {
            Location::Url(url) => self.download_to_file(url.clone(), options.sha256, context).await?,
            Location::Path(path) => open(path).map_err(|error| {
                let kind = match error.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ErrorKind::NotFound,
                    io::ErrorKind::PermissionDenied => ErrorKind::NotPermitted,
                    _ => ErrorKind::Io,
                };
                ApiError::new(kind, format!("cannot open the bundle {}: {error}", path.display()))
            })?,
        };
        self.unpack_bundle(file, options, ImageSource::Catalog, context).await
    }

    /// Downloads `url` to an unnamed file.
    async fn download_to_file(
        &self,
        url: String,
        sha256: Option<Digest>,
        context: &Context,
    ) -> Result<fs::File, EngineError> {
        admission::check_space(&self.dirs.state, "the bundle", Size::bytes(0))?;
        context.stage("download the bundle").await;
        let (registries, dir) = (self.registries(Vec::new())?, self.dirs.state.clone());
        context
            .blocking(move |context| -> Result<_, EngineError> {
                let request = DownloadRequest { url: &url, sha256, limit: BUNDLE_MAX };
                Ok(download(&registries, request, &dir, context)?)
            })
            .await
    }

    fn check_bundle_name_free(&self, name: &ImageName) -> Result<(), ApiError> {
        if !self.store.images()?.iter().any(|image| image.name == *name) {
            return Ok(());
        }
        Err(already_exists(SubjectKind::Image, name.as_str()).remedy(Remedy::NameBundle))
    }
}

/// Opens a regular file. Opening anything else could block.
fn open(path: &Path) -> io::Result<fs::File> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    fs::File::open(path)
}

/// A file whose content is hashed as it is written.
struct Hashed {
    out: fs::File,
    hash: Sha256,
    size: u64,
}

impl io::Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
