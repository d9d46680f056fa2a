//! Bundles: images that are handed from host to host in one file.

use std::{fs, io, path::Path, sync::Arc};

use banger_api::{ApiError, Bundle, Digest, ErrorKind, ImageName, Name, Size};
use banger_image::{BundleImage, CatalogImage, Place, Wanted, download, open_bundle, write_bundle};
use sha2::{Digest as _, Sha256};

use crate::{
    admission, error::EngineError, host::Host, images::taken, operation::Context, staged::ROOTFS,
    store::ImageRecord,
};

/// Largest bundle that is downloaded, in bytes.
const BUNDLE_MAX: u64 = 64 << 30;

/// What is known of a bundle before it is read.
#[derive(Debug, Default)]
pub(crate) struct BundleOptions {
    /// What its image is to be called; as the bundle says when left out.
    pub(crate) name: Option<ImageName>,
    /// Of all its bytes.
    pub(crate) sha256: Option<Digest>,
    /// The kernel that suits it; as the bundle says when left out.
    pub(crate) kernel: Option<Name>,
}

impl Host {
    /// Writes the image that `reference` names into the file `out`, which its owner has handed over.
    pub(crate) async fn bundle_image(
        self: &Arc<Self>,
        reference: &str,
        out: fs::File,
        context: &Context,
    ) -> Result<Bundle, EngineError> {
        let image = self.image_here(reference)?;
        self.usable(&image)?;
        let rootfs = self.image_dir(&image.id).join(ROOTFS);
        let name = image.name.clone();
        let described = BundleImage {
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
                write_bundle(described, &rootfs, &mut out, Path::new("the bundle"), context)?;
                Ok((Digest::sha256(out.hash.finalize().into()), Size::bytes(out.size)))
            })
            .await?;
        Ok(Bundle { name, sha256, size })
    }

    /// Makes an image of the bundle in `file`.
    pub(crate) async fn import_bundle(
        self: &Arc<Self>,
        file: fs::File,
        options: BundleOptions,
        source: &str,
        context: &Context,
    ) -> Result<ImageRecord, EngineError> {
        let BundleOptions { name, sha256, kernel } = options;
        let again = file.try_clone().map_err(EngineError::file("open", "the bundle"))?;
        // Read twice, so that what cannot be is told before all of it is unpacked.
        let manifest = context
            .blocking(move |context| -> Result<_, EngineError> {
                Ok(open_bundle(again, context)?.manifest().clone())
            })
            .await?;
        let name = name.unwrap_or(manifest.name);
        self.refuse_taken(&name)?;
        admission::space(&self.dirs.state, "the image", Size::bytes(0))?;
        let written = self
            .write_image(context, move |_, out, progress| open_bundle(file, progress)?.write(sha256, out))
            .await?;
        let kernel = kernel.or(manifest.kernel).map(|kernel| kernel.to_string());
        let image = written.record(name, source, kernel);
        self.store.insert_image(&image)?;
        written.keep();
        Ok(image)
    }

    /// Makes an image of the bundle at `url`.
    pub(crate) async fn download_bundle(
        self: &Arc<Self>,
        url: String,
        options: BundleOptions,
        context: &Context,
    ) -> Result<ImageRecord, EngineError> {
        if let Some(name) = &options.name {
            self.refuse_taken(name)?;
        }
        let file = self.downloaded(url, options.sha256, context).await?;
        self.import_bundle(file, options, "bundle", context).await
    }

    /// Gets the image `entry` of the catalog from a bundle. Two who ask at once share one fetch.
    pub(crate) async fn pull_bundle(
        self: &Arc<Self>,
        entry: &CatalogImage,
        place: &Place,
        sha256: Digest,
        context: &Context,
    ) -> Result<ImageRecord, EngineError> {
        let _turn = context.unless_cancelled(async { Ok(self.pulls.turn(&entry.name).await) }).await?;
        if let Some(image) = self.store.images()?.into_iter().find(|image| image.name == entry.name) {
            return Ok(image);
        }
        let (name, kernel) = (Some(entry.name.clone()), entry.kernel.clone());
        let options = BundleOptions { name, sha256: Some(sha256), kernel };
        let file = match place {
            Place::Url(url) => self.downloaded(url.clone(), options.sha256, context).await?,
            Place::Path(path) => open(path).map_err(|error| {
                let kind = match error.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ErrorKind::NotFound,
                    io::ErrorKind::PermissionDenied => ErrorKind::NotPermitted,
                    _ => ErrorKind::Io,
                };
                ApiError::new(kind, format!("cannot open the bundle {}: {error}", path.display()))
            })?,
        };
        self.import_bundle(file, options, "catalog", context).await
    }

    /// What is at `url`, in a file that has no name.
    async fn downloaded(
        &self,
        url: String,
        sha256: Option<Digest>,
        context: &Context,
    ) -> Result<fs::File, EngineError> {
        admission::space(&self.dirs.state, "the bundle", Size::bytes(0))?;
        context.stage("download the bundle").await;
        let (registries, folder) = (self.registries(Vec::new())?, self.dirs.state.clone());
        context
            .blocking(move |context| -> Result<_, EngineError> {
                let wanted = Wanted { url: &url, sha256, limit: BUNDLE_MAX };
                Ok(download(&registries, wanted, &folder, context)?)
            })
            .await
    }

    fn refuse_taken(&self, name: &ImageName) -> Result<(), ApiError> {
        if !self.store.images()?.iter().any(|image| image.name == *name) {
            return Ok(());
        }
        let ApiError { kind, message, .. } = taken("image", name.as_str());
        let hint = format!("choose another with --name, or delete it with: banger image delete {name}");
        Err(ApiError::new(kind, message).hint(hint))
    }
}

/// Opens a regular file; anything else might be waited for.
fn open(path: &Path) -> io::Result<fs::File> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    fs::File::open(path)
}

/// A file that is hashed as it is written.
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
