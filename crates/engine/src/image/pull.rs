//! Registry images: resolved, downloaded, and written to a disk while they download.

use std::{fs, sync::Arc};

use banger_api::{ApiError, Credentials, ImageName, ImageSource, Reference, Size, SubjectKind};
use banger_image::{Blobs, Registries, Remote, RootfsInfo, RootfsOptions};

use super::images::{Images, WrittenRootfs};
use crate::{
    admission, error::EngineError, files::remove_dir, layout::blobs, operation::Context, refusals::taken,
    remote::registries, store::ImageRecord,
};

/// Assumed ratio of an image's size on disk to its compressed size, before anything is downloaded.
const UNPACKED: u64 = 3;

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
        let _turn = context.unless_cancelled(async { Ok(self.turns.turn(&name).await) }).await?;
        let asked = reference.clone();
        let (remote, blobs) = context
            .blocking(move |context| -> Result<_, EngineError> {
                let blobs = Blobs::open(&blobs)?;
                Ok((Remote::resolve(&asked, &registries, &blobs, context)?, blobs))
            })
            .await?;
        let digest = remote.manifest().digest;
        let images = self.store.images()?;
        let old = images.iter().find(|image| image.name == name).cloned();
        let fits = |image: &ImageRecord| size.is_none_or(|size| size == image.size);
        match &old {
            Some(old) if old.digest == Some(digest) && fits(old) => {
                context.note(format!("{name} is up to date with {}", reference.registry())).await;
                return Ok(old.clone());
            }
            Some(old) if old.digest.is_none() => return Err(taken(SubjectKind::Image, name.as_str()).into()),
            _ => {}
        }
        let same = images.iter().find(|image| image.digest == Some(digest) && fits(image));
        let same = same.map(|image| (self.dir(&image.id).rootfs(), info_of(image)));
        if same.is_none() {
            let packed: u64 = remote.manifest().layers.iter().map(|layer| layer.size).sum();
            admission::space(&self.dirs.state, "the image", Size::bytes(packed.saturating_mul(UNPACKED)))?;
        }
        let options = RootfsOptions { size: size.map(Size::as_bytes), label: String::new() };
        let written = self
            .write_rootfs(context, move |folder, out, progress| {
                // Fails if the image was deleted meanwhile.
                if let Some((rootfs, info)) = same
                    && fs::hard_link(rootfs, out).is_ok()
                {
                    return Ok(info);
                }
                banger_image::pull_image(&remote, &blobs, folder, out, &options, progress)
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
        let kept = old.digest.map_or_else(|| old.name.clone(), |digest| reference.name_of(digest));
        let is_gone = staged.publish(|| self.store.replace_image(&image, &old.id, &kept))?;
        if is_gone && let Err(error) = remove_dir(self.dir(&old.id).path()) {
            tracing::warn!(%error, "a directory was not removed; the next start removes it");
        }
        Ok(image)
    }

    /// Returns the access to registries and other hosts: as configured, with the user's `credentials`.
    pub(super) fn registries(&self, credentials: Vec<Credentials>) -> Result<Registries, ApiError> {
        Ok(registries(&*self.config.now()?, credentials))
    }

    /// Waits until no request is fetching an image. None starts until the guard is dropped.
    pub(crate) async fn not_fetching(&self) -> impl Drop + use<> {
        self.turns.none().await
    }
}

/// Returns the properties of the image's file system.
fn info_of(image: &ImageRecord) -> RootfsInfo {
    RootfsInfo {
        size: image.size.as_bytes(),
        entries: image.entries,
        init: image.init.clone(),
        os: image.os.clone(),
        config: image.config.clone(),
        digest: image.digest,
    }
}
