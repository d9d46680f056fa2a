//! Registry images: resolved, downloaded, and written to a disk while they download.

use std::{fs, sync::Arc};

use banger_api::{ApiError, Credentials, ImageName, ImageSource, Reference, Size, SubjectKind};
use banger_image::{Blobs, Registries, Remote, RootfsInfo, RootfsOptions};

use super::images::{Images, WrittenRootfs};
use crate::{
    admission, api_errors::already_exists, error::EngineError, files::remove_dir, layout::blobs,
    operation::Context, remote::registries, store::ImageRecord,
};

/// Assumed ratio of an image's size on disk to its compressed size, before anything is downloaded.
const EXPANSION_RATIO: u64 = 3;

/// Options of a pull.
#[derive(Debug, Clone, Default)]
pub(super) struct PullOptions {
    /// Size of its file system.
    pub(super) size: Option<Size>,
    /// The user's credentials for registries.
    pub(super) credentials: Vec<Credentials>,
    /// The local name, if it differs from the registry's.
    pub(super) name: Option<ImageName>,
    /// The kernel for the image.
    pub(super) kernel: Option<String>,
}

impl Images {
    /// Pulls the current version of the image that `reference` names, unless the local image is that version.
    pub(super) async fn pull_reference(
        self: &Arc<Self>,
        reference: Reference,
        options: PullOptions,
        context: &Context,
    ) -> Result<ImageRecord, EngineError> {
        let PullOptions { size, credentials, name, kernel } = options;
        let name = name.unwrap_or_else(|| reference.name());
        let registries = self.registries(credentials)?;
        let blobs = blobs(&self.dirs);
        context.stage("wait for another pull of the same image").await;
        let _lock = context.unless_cancelled(async { Ok(self.fetch_locks.lock(&name).await) }).await?;
        let requested = reference.clone();
        let (remote, blobs) = context
            .blocking(move |context| -> Result<_, EngineError> {
                let blobs = Blobs::open(&blobs)?;
                Ok((Remote::resolve(&requested, &registries, &blobs, context)?, blobs))
            })
            .await?;
        let digest = remote.manifest().digest;
        let images = self.store.images()?;
        let old = images.iter().find(|image| image.name == name).cloned();
        let size_matches = |image: &ImageRecord| size.is_none_or(|size| size == image.size);
        match &old {
            Some(old) if old.digest == Some(digest) && size_matches(old) => {
                context.note(format!("{name} is up to date with {}", reference.registry())).await;
                return Ok(old.clone());
            }
            Some(old) if old.digest.is_none() => {
                return Err(already_exists(SubjectKind::Image, name.as_str()).into());
            }
            _ => {}
        }
        let same = images.iter().find(|image| image.digest == Some(digest) && size_matches(image));
        let same = same.map(|image| (self.dir(&image.id).rootfs(), rootfs_info(image)));
        if same.is_none() {
            let compressed: u64 = remote.manifest().layers.iter().map(|layer| layer.size).sum();
            admission::check_space(
                &self.dirs.state,
                "the image",
                Size::bytes(compressed.saturating_mul(EXPANSION_RATIO)),
            )?;
        }
        let options = RootfsOptions { size: size.map(Size::as_bytes), label: String::new() };
        let written = self
            .write_rootfs(context, move |dir, out, progress| {
                // Fails if the image was deleted meanwhile.
                if let Some((rootfs, info)) = same
                    && fs::hard_link(rootfs, out).is_ok()
                {
                    return Ok(info);
                }
                banger_image::pull_image(&remote, &blobs, dir, out, &options, progress)
            })
            .await?;
        let image = ImageRecord {
            reference: Some(reference.to_string()),
            digest: Some(digest),
            ..written.record(name, ImageSource::Registry, kernel)
        };
        self.publish_pulled(written, image, &reference, old)
    }

    /// Publishes a pulled image. Deletes an older one with its name, or renames it to its digest if VMs use it.
    fn publish_pulled(
        &self,
        written: WrittenRootfs,
        image: ImageRecord,
        reference: &Reference,
        old: Option<ImageRecord>,
    ) -> Result<ImageRecord, EngineError> {
        let staged = written.staged;
        let Some(old) = old else { return self.publish_new(staged, image) };
        let old_name = old.digest.map_or_else(|| old.name.clone(), |digest| reference.name_of(digest));
        let is_deleted = staged.publish(|| self.store.replace_image(&image, &old.id, &old_name))?;
        if is_deleted && let Err(error) = remove_dir(self.dir(&old.id).path()) {
            tracing::warn!(%error, "a directory was not removed; the next start removes it");
        }
        Ok(image)
    }

    /// Returns the access to registries and other hosts: as configured, with the user's `credentials`.
    pub(super) fn registries(&self, credentials: Vec<Credentials>) -> Result<Registries, ApiError> {
        Ok(registries(&*self.config.current()?, credentials))
    }

    /// Waits until no request is fetching an image. None starts until the guard is dropped.
    pub(crate) async fn lock_fetches(&self) -> impl Drop + use<> {
        self.fetch_locks.lock_all().await
    }
}

/// Returns the properties of the image's file system.
fn rootfs_info(image: &ImageRecord) -> RootfsInfo {
    RootfsInfo {
        size: image.size.as_bytes(),
        entries: image.entries,
        init: image.init.clone(),
        os: image.os.clone(),
        config: image.config.clone(),
        digest: image.digest,
    }
}
