//! Images of registries: resolved, fetched, and made into a disk while they come in.

use std::{
    collections::HashMap,
    fs,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use banger_api::{ApiError, Config, Credentials, ImageName, Reference, Size};
use banger_image::{Blobs, Registries, RegistryHost, Remote, RootfsInfo, RootfsOptions};
use tokio::sync::{OwnedMutexGuard, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::{
    admission,
    error::EngineError,
    host::Host,
    images::{Written, remove, taken},
    operation::Context,
    staged::ROOTFS,
    store::ImageRecord,
};

/// How many times larger than packed an image gets on the disk, for a guess before anything is fetched.
const UNPACKED: u64 = 3;

/// How an image is to be fetched.
#[derive(Debug, Clone, Default)]
pub(crate) struct PullOptions {
    /// Size of its file system.
    pub(crate) size: Option<Size>,
    /// What its user shows to registries.
    pub(crate) credentials: Vec<Credentials>,
    /// What it is called here, where that is not as in its registry.
    pub(crate) name: Option<ImageName>,
    /// The kernel that suits it.
    pub(crate) kernel: Option<String>,
}

/// Who fetches what: of several who want one image, one works and the others wait for it.
#[derive(Debug, Default)]
pub(crate) struct Pulls {
    turns: Mutex<HashMap<ImageName, Weak<tokio::sync::Mutex<()>>>>,
    /// Shared by those who fetch: what is in the cache stays while anyone does.
    cache: Arc<RwLock<()>>,
}

impl Pulls {
    /// Waits until nobody else fetches `name`.
    pub(crate) async fn turn(&self, name: &ImageName) -> (OwnedMutexGuard<()>, OwnedRwLockReadGuard<()>) {
        let turns = {
            let mut pulls = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            pulls.retain(|_, turns| turns.strong_count() > 0);
            let there = pulls.get(name).and_then(Weak::upgrade);
            there.unwrap_or_else(|| {
                let turns = Arc::default();
                pulls.insert(name.clone(), Arc::downgrade(&turns));
                turns
            })
        };
        (turns.lock_owned().await, self.cache.clone().read_owned().await)
    }

    /// Waits until nobody fetches anything; nobody does until what this gives is dropped.
    pub(crate) async fn none(&self) -> OwnedRwLockWriteGuard<()> {
        self.cache.clone().write_owned().await
    }
}

impl Host {
    /// Gets the image that `reference` names in its registry as it is there now; one that is here already is left alone.
    pub(crate) async fn pull_reference(
        self: &Arc<Self>,
        reference: Reference,
        options: PullOptions,
        context: &Context,
    ) -> Result<ImageRecord, EngineError> {
        let PullOptions { size, credentials, name, kernel } = options;
        let name = name.unwrap_or_else(|| reference.name());
        let registries = self.registries(credentials)?;
        let blobs = self.dirs.cache.join("blobs");
        context.stage("wait for another pull of the same image").await;
        let _turn = context.unless_cancelled(async { Ok(self.pulls.turn(&name).await) }).await?;
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
            Some(old) if old.digest.is_none() => return Err(taken("image", name.as_str()).into()),
            _ => {}
        }
        let same = images.iter().find(|image| image.digest == Some(digest) && fits(image));
        let same = same.map(|image| (self.image_dir(&image.id).join(ROOTFS), info_of(image)));
        if same.is_none() {
            let packed: u64 = remote.manifest().layers.iter().map(|layer| layer.size).sum();
            admission::space(&self.dirs.state, "the image", Size::bytes(packed.saturating_mul(UNPACKED)))?;
        }
        let options = RootfsOptions { size: size.map(Size::as_bytes), label: String::new() };
        let written = self
            .write_image(context, move |folder, out, progress| {
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
            ..written.record(name, "registry", kernel)
        };
        self.publish_pulled(written, image, &reference, old)
    }

    /// Gives a pulled image its name. An older one that has it goes, or is called by its digest from now on if VMs use it.
    fn publish_pulled(
        &self,
        written: Written,
        image: ImageRecord,
        reference: &Reference,
        old: Option<ImageRecord>,
    ) -> Result<ImageRecord, EngineError> {
        let gone = match old {
            None => {
                self.store.insert_image(&image)?;
                None
            }
            Some(old) => {
                let kept = old.digest.map_or_else(|| old.name.clone(), |digest| reference.name_of(digest));
                self.store.replace_image(&image, &old.id, &kept)?.then_some(old.id)
            }
        };
        written.keep();
        if let Some(id) = gone
            && let Err(error) = remove(&self.image_dir(&id))
        {
            tracing::warn!(%error, "left for the next start to sweep");
        }
        Ok(image)
    }

    /// How registries, and other hosts, are reached: as configured, with what the user shows to them.
    pub(crate) fn registries(&self, credentials: Vec<Credentials>) -> Result<Registries, ApiError> {
        Ok(registries_of(&*self.config()?, credentials))
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

/// How `config` says that registries, and other hosts, are reached.
pub(crate) fn registries_of(config: &Config, credentials: Vec<Credentials>) -> Registries {
    let hosts = config.registries().iter().map(|registry| RegistryHost {
        host: registry.host.clone(),
        mirrors: registry.mirrors.clone(),
        plain_http: registry.plain_http,
        ca: registry.ca.clone(),
    });
    Registries { hosts: hosts.collect(), credentials, ..Registries::default() }
}
