//! Images of registries: resolved, fetched, and made into a disk while they come in.

use std::{fs, sync::Arc};

use banger_api::{ApiError, Credentials, ImageName, ImageSource, Reference, Size, SubjectKind};
use banger_image::{Blobs, Registries, Remote, RootfsInfo, RootfsOptions};

use super::images::{Images, WrittenRootfs};
use crate::{
    admission, error::EngineError, files::remove_dir, layout::blobs, operation::Context, refusals::taken,
    remote::registries, store::ImageRecord,
};

/// How many times larger than packed an image gets on the disk, for a guess before anything is fetched.
const UNPACKED: u64 = 3;

/// How an image is to be fetched.
#[derive(Debug, Clone, Default)]
pub(super) struct PullOptions {
    /// Size of its file system.
    pub(super) size: Option<Size>,
    /// What its user shows to registries.
    pub(super) credentials: Vec<Credentials>,
    /// What it is called here, where that is not as in its registry.
    pub(super) name: Option<ImageName>,
    /// The kernel that suits it.
    pub(super) kernel: Option<String>,
}

impl Images {
    /// Gets the image that `reference` names in its registry as it is there now; one that is here already is left alone.
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
                context.note(format!("{name} is here already, as it is in {}", reference.registry())).await;
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
                // Not if it has been deleted meanwhile.
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

    /// Gives a pulled image its name. An older one that has it goes, or is called by its digest from now on if VMs use it.
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
            tracing::warn!(%error, "the next start removes it");
        }
        Ok(image)
    }

    /// Returns how registries, and other hosts, are reached: as configured, with the user's `credentials`.
    pub(super) fn registries(&self, credentials: Vec<Credentials>) -> Result<Registries, ApiError> {
        Ok(registries(&*self.config.now()?, credentials))
    }

    /// Waits until nobody fetches anything; nobody does until the guard is dropped.
    pub(crate) async fn not_fetching(&self) -> impl Drop + use<> {
        self.turns.none().await
    }
}

/// What the image's file system is.
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
