//! An image in a registry: resolved by name, its layers downloaded to the cache and unpacked at the same time.

use std::fmt;
use std::io::Read;
use std::path::Path;
use std::thread;
use std::time::Duration;

use banger_api::{Digest, Reference};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::runtime::{Builder, Runtime};

use super::blobs::{Blobs, Claim};
use super::fetch::{Fetch, FetchContext};
use super::growing::Follower;
use super::layers::{Failure, FirstFailure, each_layer_until};
use super::manifest::Manifest;
use super::meter::Meter;
use super::registries::Registries;
use super::source::Source;
use crate::error::IoContext;
use crate::{FailureKind, ImageError, Progress};

/// Maximum number of layers downloaded at once.
const MAX_TRANSFERS: usize = 4;

/// Interval between checks for cancellation.
const POLL: Duration = Duration::from_millis(50);

/// An image in a registry.
pub struct Remote {
    source: Source,
    manifest: Manifest,
    tag_digest: Digest,
    driver: Driver,
}

impl Remote {
    /// Requests the image's linux/amd64 manifest and its configuration from the registry or its mirrors.
    ///
    /// # Errors
    /// Returns an error if they cannot be fetched, or do not describe an image that can run here.
    pub fn resolve(
        reference: &Reference,
        registries: &Registries,
        blobs: &Blobs,
        progress: &dyn Progress,
    ) -> Result<Self, ImageError> {
        progress.stage("query the registry");
        let driver = Driver::new()?;
        let resolve_source = async || {
            let source = Source::new(reference, registries, progress).await?;
            let (tag_digest, manifest) = source.resolve(blobs, progress).await?;
            Ok::<_, ImageError>((source, tag_digest, manifest))
        };
        let resolved = thread::scope(|scope| {
            let resolver = scope.spawn(|| driver.run(|| progress.cancelled(), resolve_source()));
            resolver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        let (source, tag_digest, manifest) = resolved.unwrap_or(Err(ImageError::Cancelled))?;
        Ok(Self { source, manifest, tag_digest, driver })
    }

    /// Returns the image's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns the digest that the tag points to, of an index or of a manifest.
    pub fn tag_digest(&self) -> Digest {
        self.tag_digest
    }

    /// Downloads the missing layers, and calls `unpack` for each layer while it downloads.
    ///
    /// `unpack` receives the layer's index and its compressed bytes. It has to verify what it unpacks against the
    /// layer's `diff_id`. It may be called again for a layer whose bytes turn out to be damaged. The results are
    /// returned in the layers' order.
    ///
    /// # Errors
    /// Returns the first error of a download or of `unpack`. It stops all others.
    pub fn layers<T: Send>(
        &self,
        blobs: &Blobs,
        progress: &dyn Progress,
        unpack: impl Fn(usize, &mut dyn Read) -> Result<T, ImageError> + Sync,
    ) -> Result<Vec<T>, ImageError> {
        progress.stage("pull");
        let fetches = Fetches::new(&self.manifest);
        let failure = match self.attempt(&fetches, blobs, progress, &unpack) {
            Ok(results) => return Ok(results),
            Err(failure) => failure,
        };
        if !self.was_damaged(&fetches, &failure, blobs, progress)? {
            return Err(failure.error);
        }
        progress.log("a cached layer was damaged: starting over");
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
        let context = FetchContext { source: &self.source, blobs, meter: &meter, progress };
        let readers = fetches.by_layer.iter().map(|at| Follower::new(fetches.all[*at].growing.clone()));
        let (results, fetched) = thread::scope(|scope| {
            let fetcher = scope.spawn(|| {
                let _abort = AbortOnDrop(fetches);
                let stop = || first.occurred() || progress.cancelled();
                self.driver.run(stop, fetches.run(context, &first))
            });
            let results = each_layer_until(readers.collect(), &first, progress, unpack);
            let fetched = fetcher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (results, fetched)
        });
        let cancelled = || Failure { index: 0, error: ImageError::Cancelled, unpacking: false };
        match first.into_inner() {
            None if fetched.is_some() && results.len() == self.manifest.layers.len() => Ok(results),
            Some(failure) if !progress.cancelled() => Err(failure),
            _ => Err(cancelled()),
        }
    }

    /// Returns whether unpacking failed because of damaged bytes in the cache, which are then removed.
    fn was_damaged(
        &self,
        fetches: &Fetches,
        failure: &Failure,
        blobs: &Blobs,
        progress: &dyn Progress,
    ) -> Result<bool, ImageError> {
        let is_unrelated = matches!(failure.error.kind(), FailureKind::NoSpace | FailureKind::Cancelled);
        if !failure.unpacking || is_unrelated || progress.cancelled() {
            return Ok(false);
        }
        let fetch = &fetches.all[fetches.by_layer[failure.index]];
        let digest = &fetch.layer.digest;
        match blobs.claim(digest)? {
            Claim::Complete(file) if !blobs.is_intact(digest, &file)? => {
                blobs.remove(digest)?;
                return Ok(true);
            }
            // These bytes are not verified yet, so the download must not resume from them.
            Claim::Acquired(partial) => partial.discard()?,
            Claim::Complete(_) | Claim::Busy(_) => {}
        }
        Ok(fetch.is_suspect())
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("manifest", &self.manifest).finish_non_exhaustive()
    }
}

/// The downloads of an image: one per blob, even if several layers share it.
struct Fetches {
    all: Vec<Fetch>,
    /// For each layer, the index of its download in `all`.
    by_layer: Vec<usize>,
}

impl Fetches {
    fn new(manifest: &Manifest) -> Self {
        let mut all: Vec<Fetch> = Vec::new();
        let by_layer = manifest.layers.iter().map(|layer| {
            let existing = all.iter().position(|fetch| fetch.layer.digest == layer.digest);
            existing.unwrap_or_else(|| {
                all.push(Fetch::new(*layer));
                all.len() - 1
            })
        });
        let by_layer = by_layer.collect();
        Self { all, by_layer }
    }

    /// Runs all downloads, a few at a time, until the first failure.
    async fn run(&self, context: FetchContext<'_>, first: &FirstFailure) {
        let fetches = self.all.iter().enumerate().map(|(at, fetch)| async move {
            let fetched = fetch.run(context).await;
            let index = self.by_layer.iter().position(|of| *of == at).unwrap_or_default();
            // Set the failure before the readers learn that no more data will arrive.
            fetched.map_err(|error| first.set(Failure { index, error, unpacking: false }))
        });
        let all = stream::iter(fetches).buffer_unordered(MAX_TRANSFERS);
        // The failure is already in `first`.
        let _: Result<(), ()> = all.try_collect().await;
    }
}

/// Wakes all readers that wait for layers, however the downloads end.
struct AbortOnDrop<'a>(&'a Fetches);

impl Drop for AbortOnDrop<'_> {
    fn drop(&mut self) {
        self.0.all.iter().for_each(|fetch| fetch.growing.abort());
    }
}

/// Runs asynchronous work on the calling thread.
pub(crate) struct Driver(Option<Runtime>);

impl Driver {
    pub(crate) fn new() -> Result<Self, ImageError> {
        let runtime = Builder::new_current_thread().enable_all().build();
        runtime.map(|runtime| Self(Some(runtime))).during("prepare connections to", Path::new("other hosts"))
    }

    /// Runs `work` to its end on this thread. Returns `None` if `stop` returns true before that.
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
        // Do not wait for the runtime: it may be dropped where blocking is not allowed.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
