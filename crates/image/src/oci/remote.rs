//! One image in a registry: found by its name, its layers brought into the cache and unpacked meanwhile.

use std::fmt;
use std::io::Read;
use std::path::Path;
use std::thread;
use std::time::Duration;

use banger_api::{Digest, Reference};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::runtime::{Builder, Runtime};

use super::blobs::{Blobs, Claim};
use super::fetch::{Fetch, Means};
use super::growing::Follower;
use super::layers::{Failure, FirstFailure, each_layer_until};
use super::manifest::Manifest;
use super::meter::Meter;
use super::registries::Registries;
use super::source::Source;
use crate::error::IoContext;
use crate::{FailureKind, ImageError, Progress};

/// Most layers fetched at once.
const MOST_TRANSFERS: usize = 4;

/// How often it is asked whether to go on.
const POLL: Duration = Duration::from_millis(50);

/// An image in a registry.
pub struct Remote {
    source: Source,
    manifest: Manifest,
    tag_digest: Digest,
    driver: Driver,
}

impl Remote {
    /// Asks the registry, or its mirrors, for the image's manifest for linux/amd64 and its configuration.
    ///
    /// # Errors
    /// When they can't be had, or are not those of an image that can run here.
    pub fn resolve(
        reference: &Reference,
        registries: &Registries,
        blobs: &Blobs,
        progress: &dyn Progress,
    ) -> Result<Self, ImageError> {
        progress.stage("ask the registry");
        let driver = Driver::new()?;
        let ask = async || {
            let source = Source::new(reference, registries, progress).await?;
            let (tag_digest, manifest) = source.resolve(blobs, progress).await?;
            Ok::<_, ImageError>((source, tag_digest, manifest))
        };
        let asked = thread::scope(|scope| {
            let asking = scope.spawn(|| driver.run(|| progress.cancelled(), ask()));
            asking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        let (source, tag_digest, manifest) = asked.unwrap_or(Err(ImageError::Cancelled))?;
        Ok(Self { source, manifest, tag_digest, driver })
    }

    /// What the image consists of.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The digest that the tag itself points to: of an index, or of the manifest.
    pub fn tag_digest(&self) -> Digest {
        self.tag_digest
    }

    /// Fetches the layers that are not in the cache, and hands each of them (its index, its packed bytes) to `unpack`
    /// while it comes in; what that made of them, in the layers' order.
    ///
    /// `unpack` has to hold what it unpacks against the layer's `diff_id`. It may be called once more for a layer
    /// whose bytes turned out to be damaged.
    ///
    /// # Errors
    /// The first there was, of a download or of `unpack`; it ends the others.
    pub fn layers<T: Send>(
        &self,
        blobs: &Blobs,
        progress: &dyn Progress,
        unpack: impl Fn(usize, &mut dyn Read) -> Result<T, ImageError> + Sync,
    ) -> Result<Vec<T>, ImageError> {
        progress.stage("pull");
        let fetches = Fetches::new(&self.manifest);
        let failure = match self.attempt(&fetches, blobs, progress, &unpack) {
            Ok(made) => return Ok(made),
            Err(failure) => failure,
        };
        if !self.was_damaged(&fetches, &failure, blobs, progress)? {
            return Err(failure.error);
        }
        progress.log("what was in the cache was damaged: starting over");
        let fetches = Fetches::new(&self.manifest);
        self.attempt(&fetches, blobs, progress, &unpack).map_err(|failure| failure.error)
    }

    fn attempt<T: Send>(
        &self,
        fetches: &Fetches,
        blobs: &Blobs,
        progress: &dyn Progress,
        unpack: &(impl Fn(usize, &mut dyn Read) -> Result<T, ImageError> + Sync),
    ) -> Result<Vec<T>, Failure> {
        let total = fetches.all.iter().map(|fetch| fetch.layer.size).sum();
        let meter = Meter::new(total, progress);
        let first = FirstFailure::default();
        let means = Means { source: &self.source, blobs, meter: &meter, progress };
        let readers = fetches.of_layer.iter().map(|at| Follower::new(fetches.all[*at].growing.clone()));
        let (made, fetched) = thread::scope(|scope| {
            let fetching = scope.spawn(|| {
                let _closed = Closed(fetches);
                let stop = || first.happened() || progress.cancelled();
                self.driver.run(stop, fetches.run(means, &first))
            });
            let made = each_layer_until(readers.collect(), &first, progress, unpack);
            let fetched = fetching.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (made, fetched)
        });
        let cancelled = || Failure { index: 0, error: ImageError::Cancelled, unpacking: false };
        match first.into_inner() {
            None if fetched.is_some() && made.len() == self.manifest.layers.len() => Ok(made),
            Some(failure) if !progress.cancelled() => Err(failure),
            _ => Err(cancelled()),
        }
    }

    /// Whether a layer could not be unpacked because of what was in the cache, which then is no more.
    fn was_damaged(
        &self,
        fetches: &Fetches,
        failure: &Failure,
        blobs: &Blobs,
        progress: &dyn Progress,
    ) -> Result<bool, ImageError> {
        let innocent = matches!(failure.error.kind(), FailureKind::NoSpace | FailureKind::Cancelled);
        if !failure.unpacking || innocent || progress.cancelled() {
            return Ok(false);
        }
        let fetch = &fetches.all[fetches.of_layer[failure.index]];
        let digest = &fetch.layer.digest;
        match blobs.claim(digest)? {
            Claim::Whole(file) if !blobs.is_sound(digest, &file)? => {
                blobs.remove(digest)?;
                return Ok(true);
            }
            // Nobody has checked it yet, so it is not to be resumed.
            Claim::Ours(partial) => partial.discard()?,
            Claim::Whole(_) | Claim::Taken(_) => {}
        }
        Ok(fetch.is_suspect())
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("manifest", &self.manifest).finish_non_exhaustive()
    }
}

/// The layers on their way: each blob once, even if several layers have it.
struct Fetches {
    all: Vec<Fetch>,
    /// For each layer its place in `all`.
    of_layer: Vec<usize>,
}

impl Fetches {
    fn new(manifest: &Manifest) -> Self {
        let mut all: Vec<Fetch> = Vec::new();
        let of_layer = manifest.layers.iter().map(|layer| {
            let known = all.iter().position(|fetch| fetch.layer.digest == layer.digest);
            known.unwrap_or_else(|| {
                all.push(Fetch::new(*layer));
                all.len() - 1
            })
        });
        let of_layer = of_layer.collect();
        Self { all, of_layer }
    }

    /// Fetches all, a few at a time, up to the first failure.
    async fn run(&self, means: Means<'_>, first: &FirstFailure) {
        let fetches = self.all.iter().enumerate().map(|(at, fetch)| async move {
            let fetched = fetch.run(means).await;
            let index = self.of_layer.iter().position(|of| *of == at).unwrap_or_default();
            // Before those who wait for it learn that there will be no more.
            fetched.map_err(|error| first.set(Failure { index, error, unpacking: false }))
        });
        let all = stream::iter(fetches).buffer_unordered(MOST_TRANSFERS);
        // The failure is told where it is found.
        let _: Result<(), ()> = all.try_collect().await;
    }
}

/// Lets go of all who wait for layers, however the fetching ends.
struct Closed<'a>(&'a Fetches);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.all.iter().for_each(|fetch| fetch.growing.close());
    }
}

/// Runs what is asynchronous here.
pub(crate) struct Driver(Option<Runtime>);

impl Driver {
    pub(crate) fn new() -> Result<Self, ImageError> {
        let runtime = Builder::new_current_thread().enable_all().build();
        runtime.map(|runtime| Self(Some(runtime))).during("prepare connections to", Path::new("other hosts"))
    }

    /// Runs `work` to its end on this thread; None if `stop` said so before.
    pub(crate) fn run<T>(&self, stop: impl Fn() -> bool, work: impl Future<Output = T>) -> Option<T> {
        self.0.as_ref()?.block_on(async {
            let mut work = std::pin::pin!(work);
            loop {
                match tokio::time::timeout(POLL, &mut work).await {
                    Ok(done) => return Some(done),
                    Err(_) if stop() => return None,
                    Err(_) => {}
                }
            }
        })
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Without waiting, as it may be dropped where that is not allowed.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
